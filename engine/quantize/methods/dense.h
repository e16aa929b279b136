// Matrices of the quantizers: row-major f32 [out features, in features], as weights are stored.
#pragma once

#include <Eigen/Core>
#include <cstdint>

namespace nibble::quantize {

using MatrixF = Eigen::Matrix<float, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;
using VectorF = Eigen::VectorXf;

}  // namespace nibble::quantize
