#include "engine/quantize/budget.h"

#include <algorithm>
#include <cmath>
#include <numeric>

#include "absl/strings/str_cat.h"

namespace nibble {
namespace {

// Damage saved a byte by going from one choice to a larger one.
double Slope(const TypeChoice& from, const TypeChoice& to) {
  return (from.damage - to.damage) / static_cast<double>(to.bytes - from.bytes);
}

// Indices of the choices on the lower convex hull, bytes ascending, damage descending.
std::vector<size_t> Hull(const std::vector<TypeChoice>& choices) {
  std::vector<size_t> order(choices.size());
  std::iota(order.begin(), order.end(), size_t{0});
  std::sort(order.begin(), order.end(), [&](size_t a, size_t b) {
    const TypeChoice &x = choices[a], &y = choices[b];
    return x.bytes != y.bytes ? x.bytes < y.bytes : x.damage < y.damage;
  });
  std::vector<size_t> hull;
  for (size_t i : order) {
    const TypeChoice& next = choices[i];
    if (!hull.empty() && next.damage >= choices[hull.back()].damage) continue;
    while (hull.size() >= 2 && Slope(choices[hull[hull.size() - 2]], choices[hull.back()]) <=
                                   Slope(choices[hull.back()], next)) {
      hull.pop_back();
    }
    hull.push_back(i);
  }
  return hull;
}

absl::Status Check(absl::Span<const TensorChoices> tensors) {
  for (const TensorChoices& tensor : tensors) {
    if (tensor.choices.empty()) {
      return absl::InvalidArgumentError(
          absl::StrCat("tensor '", tensor.name, "': no type to choose"));
    }
    for (const TypeChoice& choice : tensor.choices) {
      if (std::isfinite(choice.damage) && choice.bytes >= 0) continue;
      return absl::InvalidArgumentError(absl::StrCat("tensor '", tensor.name,
                                                     "': found a damage of ", choice.damage,
                                                     " for ", choice.bytes, " bytes"));
    }
  }
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<std::vector<size_t>> SpendBudget(absl::Span<const TensorChoices> tensors,
                                                int64_t budget_bytes) {
  if (const absl::Status status = Check(tensors); !status.ok()) return status;
  struct Step {
    size_t tensor, at;  // to hull[at] from the one before
    double slope;
    int64_t bytes;
  };
  std::vector<std::vector<size_t>> hulls;
  std::vector<Step> steps;
  int64_t left = budget_bytes;
  for (size_t t = 0; t < tensors.size(); ++t) {
    const std::vector<TypeChoice>& choices = tensors[t].choices;
    hulls.push_back(Hull(choices));
    const std::vector<size_t>& hull = hulls.back();
    left -= choices[hull[0]].bytes;
    for (size_t i = 1; i < hull.size(); ++i) {
      const TypeChoice &from = choices[hull[i - 1]], &to = choices[hull[i]];
      steps.push_back({t, i, Slope(from, to), to.bytes - from.bytes});
    }
  }
  if (left < 0) {
    return absl::InvalidArgumentError(
        absl::StrCat("a budget of ", budget_bytes, " bytes: these tensors need ",
                     budget_bytes - left, " at their smallest types"));
  }
  // Slopes of a tensor's hull descend, so its steps come in their order.
  std::stable_sort(steps.begin(), steps.end(),
                   [](const Step& a, const Step& b) { return a.slope > b.slope; });
  std::vector<size_t> at(tensors.size(), 0);
  for (const Step& step : steps) {
    if (step.at != at[step.tensor] + 1 || step.bytes > left)
      continue;  // an earlier one did not fit
    at[step.tensor] = step.at;
    left -= step.bytes;
  }
  std::vector<size_t> chosen;
  for (size_t t = 0; t < tensors.size(); ++t) chosen.push_back(hulls[t][at[t]]);
  return chosen;
}

}  // namespace nibble
