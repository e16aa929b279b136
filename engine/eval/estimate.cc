#include "engine/eval/estimate.h"

#include <algorithm>
#include <cmath>

namespace nibble {
namespace {

double Quantile(const std::vector<double>& sorted, double q) {
  const double at = std::clamp(q, 0.0, 1.0) * static_cast<double>(sorted.size() - 1);
  const auto low = static_cast<size_t>(at);
  const size_t high = std::min(low + 1, sorted.size() - 1);
  return sorted[low] + (at - static_cast<double>(low)) * (sorted[high] - sorted[low]);
}

}  // namespace

Estimate EstimateMean(const std::vector<double>& values) {
  const auto n = static_cast<double>(values.size());
  double sum = 0, squares = 0;
  for (double value : values) sum += value;
  const double mean = sum / n;
  for (double value : values) squares += (value - mean) * (value - mean);
  return {mean, n > 1 ? std::sqrt(squares / (n - 1) / n) : 0};
}

Estimate EstimateMean(double sum, double squares, double count) {
  const double mean = sum / count;
  const double spread = std::max(0.0, squares - sum * mean);
  return {mean, count > 1 ? std::sqrt(spread / (count - 1) / count) : 0};
}

Estimate EstimateRootMeanSquare(const std::vector<double>& values) {
  std::vector<double> squares;
  squares.reserve(values.size());
  for (double value : values) squares.push_back(value * value);
  const Estimate square = EstimateMean(squares);
  const double root = std::sqrt(square.mean);
  return {root, root > 0 ? square.standard_error / (2 * root) : 0};
}

Estimate EstimateQuantile(const std::vector<double>& sorted, double q) {
  const double ranks = std::sqrt(q * (1 - q) / static_cast<double>(sorted.size()));
  return {Quantile(sorted, q), (Quantile(sorted, q + ranks) - Quantile(sorted, q - ranks)) / 2};
}

}  // namespace nibble
