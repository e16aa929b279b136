// The part of bench_report.h about an earlier run.
#include <algorithm>
#include <fstream>
#include <sstream>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "cli/bench_report.h"

namespace nibble {
namespace {

using Json = nlohmann::ordered_json;

constexpr const char* kKey[] = {"test",    "batch",   "prompt_tokens",
                                "context", "threads", "kv_cache_type"};

absl::Status CheckRow(const Json& row, const std::string& where) {
  const auto refuse = [&where](const char* field, const char* needed) {
    return absl::InvalidArgumentError(absl::StrCat(where, ".", field, ": needed ", needed));
  };
  if (!row.is_object() || !row.contains("test") || !row["test"].is_string()) {
    return refuse("test", "a text");
  }
  for (const char* field : {"batch", "prompt_tokens", "context"}) {
    if (!row.contains(field) || !row[field].is_number_integer()) return refuse(field, "a number");
  }
  for (const char* field : {"median", "min", "max"}) {
    const Json rates = row.value("tokens_per_second", Json());
    if (!rates.is_object() || !rates.contains(field) || !rates[field].is_number() ||
        rates[field].get<double>() <= 0) {
      return refuse("tokens_per_second", "median, min and max above 0");
    }
  }
  return absl::OkStatus();
}

// What makes two rows the same measurement.
Json KeyOf(const Json& row, const Json& machine) {
  const Json if_not_told = {{"threads", machine.value("threads", Json(0))},
                            {"kv_cache_type", "f16"}};
  Json key;  // fields in the order of kKey: ordered_json compares that too
  for (const char* field : kKey) {
    key[field] = row.contains(field) ? row[field] : if_not_told.value(field, Json());
  }
  return key;
}

Json RatioOf(Json key, const Json& now, const Json& then) {
  const auto rate = [](const Json& row, const char* which) {
    return row["tokens_per_second"][which].get<double>();
  };
  key["now"] = rate(now, "median");
  key["then"] = rate(then, "median");
  key["ratio"] = rate(now, "median") / rate(then, "median");
  key["ratio_min"] = rate(now, "min") / rate(then, "max");
  key["ratio_max"] = rate(now, "max") / rate(then, "min");
  return key;
}

Json Warnings(const Json& now, const Json& then) {
  constexpr std::pair<const char*, const char*> kMustAgree[] = {
      {"machine", "cpu"}, {"machine", "isa"}, {"model", "file"}, {"model", "weights_bytes"}};
  Json warnings = Json::array();
  for (const auto& [part, field] : kMustAgree) {
    const Json ours = now.value(part, Json::object()).value(field, Json());
    const Json theirs = then.value(part, Json::object()).value(field, Json());
    if (ours == theirs) continue;
    warnings.push_back(absl::StrCat(part, ".", field, " is ", ours.dump(), " now and was ",
                                    theirs.is_null() ? "not told" : theirs.dump(), " then"));
  }
  return warnings;
}

std::string KeyText(const Json& key) {
  return absl::StrFormat("%-8s %7d %8d %6d %8d %5s", key["test"].get<std::string>(),
                         key["prompt_tokens"].get<int>(), key["context"].get<int>(),
                         key["batch"].get<int>(), key["threads"].get<int>(),
                         key["kv_cache_type"].get<std::string>());
}

}  // namespace

absl::StatusOr<Json> ReadBenchJson(const std::string& path) {
  std::ifstream file(path);
  if (!file) {
    return absl::NotFoundError(
        absl::StrCat("--compare: cannot read '", path, "', needed a file of bench --output json"));
  }
  std::ostringstream text;
  text << file.rdbuf();
  Json json = Json::parse(text.str(), nullptr, /*allow_exceptions=*/false);
  const auto is = [&json](const char* part, bool (Json::*kind)() const noexcept) {
    return json.is_object() && json.contains(part) && (json[part].*kind)();
  };
  if (!is("machine", &Json::is_object) || !is("results", &Json::is_array) ||
      (json.contains("model") && !json["model"].is_object())) {
    return absl::InvalidArgumentError(absl::StrCat(
        "--compare: '", path, "' is not what bench --output json prints: needed machine, results"));
  }
  for (size_t i = 0; i < json["results"].size(); ++i) {
    const absl::Status row =
        CheckRow(json["results"][i], absl::StrCat("--compare: ", path, ": results[", i, "]"));
    if (!row.ok()) return row;
  }
  return json;
}

Json CompareBench(const Json& now, const Json& then) {
  Json comparison = {{"rows", Json::array()},
                     {"only_now", Json::array()},
                     {"only_then", Json::array()},
                     {"warnings", Warnings(now, then)}};
  std::vector<std::pair<Json, const Json*>> theirs;
  for (const Json& row : then["results"]) theirs.emplace_back(KeyOf(row, then["machine"]), &row);
  for (const Json& row : now["results"]) {
    const Json key = KeyOf(row, now["machine"]);
    const auto partner = std::find_if(theirs.begin(), theirs.end(), [&key](const auto& candidate) {
      return candidate.first == key;
    });
    if (partner == theirs.end()) {
      comparison["only_now"].push_back(key);
      continue;
    }
    comparison["rows"].push_back(RatioOf(key, row, *partner->second));
    theirs.erase(partner);
  }
  for (const auto& [key, row] : theirs) comparison["only_then"].push_back(key);
  return comparison;
}

void PrintComparison(const Json& comparison, const std::string& path, std::ostream& out) {
  out << absl::StreamFormat("\nBeside %s (ratio above 1: faster now)\n", path);
  for (const Json& warning : comparison["warnings"]) {
    out << "warning: " << warning.get<std::string>() << "\n";
  }
  out << absl::StreamFormat("%-8s %7s %8s %6s %8s %5s %10s %10s %7s  %s\n", "test", "prompt",
                            "context", "batch", "threads", "kv", "now", "then", "ratio", "range");
  for (const Json& row : comparison["rows"]) {
    const double low = row["ratio_min"].get<double>(), high = row["ratio_max"].get<double>();
    out << absl::StreamFormat("%s %10.1f %10.1f %7.3f  %.3f to %.3f%s\n", KeyText(row),
                              row["now"].get<double>(), row["then"].get<double>(),
                              row["ratio"].get<double>(), low, high,
                              low <= 1 && high >= 1 ? ", no difference shown" : "");
  }
  for (const Json& key : comparison["only_now"]) {
    out << KeyText(key) << "  no partner: only now\n";
  }
  for (const Json& key : comparison["only_then"]) {
    out << KeyText(key) << "  no partner: only then\n";
  }
  out.flush();
}

}  // namespace nibble
