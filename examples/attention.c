// Causal attention over four tokens with the kernels alone, from C.
#include <stdio.h>

#include "fovea/kernels/fovea_kernels.h"

enum { TOKENS = 4, HEADS = 2, DIM = 8, COUNT = TOKENS * HEADS * DIM };

int main(void) {
  float q[COUNT], k[COUNT], v[COUNT], out[COUNT];
  for (int i = 0; i < COUNT; ++i) {
    q[i] = (float)(i % 7) / 7.0f;
    k[i] = (float)(i % 5) / 5.0f;
    v[i] = (float)(i / (HEADS * DIM));  // the token's own number
  }

  fovea_pool* pool = NULL;
  fovea_attention* plan = NULL;
  fovea_attention_problem problem = fovea_attention_problem_of(1, TOKENS, HEADS, DIM, FOVEA_PACKED);
  problem.causal = 1;
  const fovea_attention_args args = {.q = q, .k = k, .v = v, .out = out};
  if (fovea_pool_create(0, &pool) != FOVEA_OK ||
      fovea_attention_plan(&problem, pool, &plan) != FOVEA_OK ||
      fovea_attention_run(plan, &args) != FOVEA_OK) {
    fprintf(stderr, "attention: %s\n", fovea_message());
    return 1;
  }
  printf("fovea %s, kernel %s\n", fovea_kernels_version(), fovea_attention_kernel(plan));
  for (int t = 0; t < TOKENS; ++t)
    printf("token %d sees a mean of %.3f\n", t, (double)out[t * HEADS * DIM]);
  fovea_attention_destroy(plan);
  fovea_pool_destroy(pool);
  return 0;
}
