// A figure and how sure it is. Samples are taken as independent; scored tokens are not quite.
#pragma once

#include <vector>

namespace nibble {

struct Estimate {
  double mean = 0;
  double standard_error = 0;  // of the mean; 0 for one sample
};

// REQUIRES a sample or more, of all that follows.
Estimate EstimateMean(const std::vector<double>& values);

// The same from sums. Loses digits where the spread is far below the mean.
Estimate EstimateMean(double sum, double squares, double count);

// sqrt(mean(v^2)); its error to first order.
Estimate EstimateRootMeanSquare(const std::vector<double>& values);

// A quantile, interpolated linearly between ranks. Its error is half the distance of the quantiles
// at q -+ sqrt(q (1 - q) / n), where the rank lies with one standard error (Woodruff 1952).
// REQUIRES `sorted` ascending, q 0 to 1. The maximum (q = 1) has no error of this kind: 0.
Estimate EstimateQuantile(const std::vector<double>& sorted, double q);

}  // namespace nibble
