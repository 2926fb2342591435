// Where the lists of the smaller families get their Highway kernels from: each append_hwy() stands
// in x_hwy.cpp and adds the kernels of the instruction sets that the processor has, best first.
#pragma once

#include <memory>
#include <vector>

#include "fovea/kernels/adamw.h"
#include "fovea/kernels/cross_entropy.h"
#include "fovea/kernels/dropout.h"
#include "fovea/kernels/elementwise.h"
#include "fovea/kernels/elementwise_chain.h"
#include "fovea/kernels/kernel.h"
#include "fovea/kernels/norm.h"
#include "fovea/kernels/normalise.h"
#include "fovea/kernels/reduce.h"
#include "fovea/kernels/softmax.h"

namespace fovea {

template <class Problem, class Args>
using KernelList = std::vector<Kernel<Problem, Args>>;

void append_hwy(KernelList<UnaryProblem, UnaryArgs>& list);
void append_hwy(KernelList<BinaryProblem, BinaryArgs>& list);
void append_hwy(KernelList<SelectProblem, SelectArgs>& list);
void append_hwy(KernelList<CastProblem, CastArgs>& list);
void append_hwy(KernelList<ChainProblem, ChainArgs>& list);
void append_hwy(KernelList<AdamWProblem, AdamWArgs>& list);
void append_hwy(KernelList<ReduceProblem, ReduceArgs>& list);
void append_hwy(KernelList<SumSquaresProblem, SumSquaresArgs>& list);
void append_hwy(KernelList<DropoutProblem, DropoutArgs>& list);
void append_hwy(KernelList<SoftmaxProblem, SoftmaxArgs>& list);
void append_hwy(KernelList<SoftmaxProblem, SoftmaxGradArgs>& list);
void append_hwy(KernelList<NormProblem, NormArgs>& list);
void append_hwy(KernelList<NormProblem, NormGradArgs>& list);
void append_hwy(KernelList<NormaliseProblem, NormaliseArgs>& list);
void append_hwy(KernelList<NormaliseProblem, NormaliseGradArgs>& list);
void append_hwy(KernelList<CrossEntropyProblem, CrossEntropyArgs>& list);
void append_hwy(KernelList<CrossEntropyProblem, CrossEntropyGradArgs>& list);

// A family's whole list: Highway's kernels, then the reference.
template <class Problem, class Args>
KernelList<Problem, Args> with_hwy(std::unique_ptr<KernelPlan<Args>> (*plan_ref)(const Problem&)) {
  KernelList<Problem, Args> list;
  append_hwy(list);
  list.push_back({"ref", plan_ref});
  return list;
}

}  // namespace fovea
