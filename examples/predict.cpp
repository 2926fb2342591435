// Loads a bundle and names the class of a picture. Usage: predict BUNDLE IMAGE
#include <iostream>

#include "fovea/fovea.h"

int main(int argc, char** argv) {
  if (argc != 3) {
    std::cerr << "usage: predict BUNDLE IMAGE\n";
    return 2;
  }
  try {
    fovea::Predictor predictor(fovea::load_bundle(argv[1]));
    for (const auto& [label, probability] : predictor.predict(fovea::read_image(argv[2]), argv[2]))
      std::cout << label << "\t" << probability << "\n";
  } catch (const fovea::Error& error) {
    std::cerr << "predict: " << error.what() << "\n";
    return 2;
  }
}
