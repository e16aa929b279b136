#include "cli/flags.h"

#include <algorithm>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_replace.h"
#include "absl/strings/str_split.h"

namespace nibble {
namespace {

using Json = nlohmann::ordered_json;

// Unwraps or turns the error into CLI11's way of saying "wrong usage".
template <typename T>
T OrUsageError(absl::StatusOr<T> value, const std::string& name) {
  if (!value.ok()) throw CLI::ValidationError(name, std::string(value.status().message()));
  return *std::move(value);
}

}  // namespace

bool GivesFlag(const std::vector<std::string>& args, const std::string& name) {
  for (const std::string& arg : args) {
    if (arg == "--") return false;
    if (arg == name || absl::StartsWith(arg, name + "=")) return true;
  }
  return false;
}

std::string Flags::Twin(absl::string_view flag) {
  return absl::StrCat("NIBBLE_", absl::AsciiStrToUpper(absl::StrReplaceAll(
                                     absl::StripPrefix(flag, "--"), {{"-", "_"}})));
}

std::string Flags::Described(const std::string& name, const std::string& help) {
  return absl::StrCat(help, " [", Twin(name), "]");
}

CLI::Option* Flags::Register(CLI::Option* option, const std::string& name,
                             std::function<Json()> value) {
  flags_.push_back({name, Twin(name), "", option, std::move(value)});
  return option;
}

void Flags::SetTwin(const std::string& name, const std::string& twin) {
  for (Flag& flag : flags_) {
    if (flag.name != name) continue;
    std::string text = flag.option->get_description();
    text.resize(text.size() - absl::StrCat(" [", flag.twin, "]").size());
    flag.twin = twin;
    flag.option->description(twin.empty() ? text : absl::StrCat(text, " [", twin, "]"));
  }
}

CLI::Option* Flags::AddPositional(const std::string& name, std::string& value,
                                  const std::string& help) {
  return app_->add_option(name, value, help);
}

CLI::Option* Flags::AddParsed(const std::string& name, const std::string& help,
                              std::function<void(const std::string&)> parse,
                              std::function<Json()> value) {
  CLI::Option* option =
      app_->add_option_function<std::string>(name, std::move(parse), Described(name, help));
  return Register(option, name, std::move(value));
}

CLI::Option* Flags::Add(const std::string& name, bool& value, const std::string& help) {
  return Register(app_->add_flag(name, value, Described(name, help)), name,
                  [&value] { return Json(value); });
}

CLI::Option* Flags::Add(const std::string& name, Duration& value, const std::string& help) {
  auto parse = [&value, name](const std::string& text) {
    value = OrUsageError(ParseDuration(text), name);
  };
  return AddParsed(name, help, parse, [&value] { return Json(FormatDuration(value)); })
      ->type_name("DURATION")
      ->default_str(FormatDuration(value));
}

CLI::Option* Flags::Add(const std::string& name, std::optional<Duration>& value,
                        const std::string& help) {
  auto parse = [&value, name](const std::string& text) {
    value = OrUsageError(ParseDuration(text), name);
  };
  auto json = [&value] { return value.has_value() ? Json(FormatDuration(*value)) : Json(); };
  return AddParsed(name, help, parse, json)->type_name("DURATION");
}

CLI::Option* Flags::Add(const std::string& name, std::optional<std::string>& value,
                        const std::string& help) {
  auto json = [&value] { return value.has_value() ? Json(*value) : Json(); };
  return AddParsed(name, help, [&value](const std::string& text) { value = text; }, json);
}

CLI::Option* Flags::Add(const std::string& name, std::vector<std::string>& values,
                        const std::string& help) {
  CLI::Option* option =
      app_->add_option(name, values, Described(name, help))->allow_extra_args(false);
  return Register(option->type_name("TEXT"), name, [&values] { return Json(values); });
}

CLI::Option* Flags::Add(const std::string& name, std::vector<int32_t>& values,
                        const std::string& help) {
  auto parse = [&values, name](const std::string& text) {
    values = OrUsageError(ParseIntList(text), name);
  };
  return AddParsed(name, help, parse, [&values] { return Json(values); })->type_name("N,N,...");
}

CLI::Option* Flags::Add(const std::string& name, std::vector<std::pair<int32_t, float>>& values,
                        const std::string& help) {
  CLI::callback_t parse = [&values, name](const std::vector<std::string>& texts) {
    for (const std::string& text : texts) {
      for (absl::string_view item : absl::StrSplit(text, ',')) {
        values.push_back(OrUsageError(ParseLogitBias(item), name));
      }
    }
    return true;
  };
  CLI::Option* option = app_->add_option(name, parse, Described(name, help));
  option->expected(1, CLI::detail::expected_max_vector_size)
      ->allow_extra_args(false)
      ->multi_option_policy(CLI::MultiOptionPolicy::TakeAll)
      ->type_name("ID=BIAS");
  return Register(option, name, [&values] {
    Json json = Json::object();
    for (const auto& [id, bias] : values) json[std::to_string(id)] = bias;
    return json;
  });
}

void Flags::OnlyWith(const std::string& needed, const std::function<void()>& add) {
  const size_t first = flags_.size();
  add();
  for (size_t i = first; i < flags_.size(); ++i) {
    flags_[i].needed = needed;
    flags_[i].option->needs(app_->get_option(needed));
  }
}

absl::Status Flags::Check() const {
  for (const auto& check : checks_) {
    if (absl::Status status = check(); !status.ok()) return status;
  }
  return absl::OkStatus();
}

bool Flags::GivesPositional(const std::vector<std::string>& args) const {
  for (size_t i = 0; i < args.size(); ++i) {
    if (args[i] == "--") return i + 1 < args.size();
    if (args[i].size() < 2 || args[i].front() != '-') return true;
    const auto flag = std::find_if(flags_.begin(), flags_.end(),
                                   [&](const Flag& one) { return one.name == args[i]; });
    if (flag != flags_.end() && flag->takes_value()) ++i;
  }
  return false;
}

bool Flags::Gives(const std::vector<std::string>& args, const std::string& name) const {
  return absl::StartsWith(name, "--") ? GivesFlag(args, name) : GivesPositional(args);
}

std::vector<std::string> Flags::EnvironmentArgs(const std::vector<std::string>& args,
                                                const Environment& environment) const {
  std::vector<std::string> extra;
  const auto lacks = [&](const std::string& needed) {
    return !needed.empty() && !GivesFlag(args, needed) && !GivesFlag(extra, needed);
  };
  for (const Flag& flag : flags_) {
    bool given = GivesFlag(args, flag.name);
    for (const std::vector<std::string>& group : rivals_) {
      if (std::find(group.begin(), group.end(), flag.name) == group.end()) continue;
      given = given || std::any_of(group.begin(), group.end(),
                                   [&](const std::string& rival) { return Gives(args, rival); });
    }
    if (given || flag.twin.empty() || lacks(flag.needed)) continue;
    const char* value = environment(flag.twin);
    // An empty variable counts as not set, as deployments template them.
    if (value != nullptr && *value != 0) extra.push_back(absl::StrCat(flag.name, "=", value));
  }
  return extra;
}

Json Flags::Values() const {
  Json values = Json::object();
  for (const Flag& flag : flags_) {
    values[absl::StrReplaceAll(absl::StripPrefix(flag.name, "--"), {{"-", "_"}})] = flag.value();
  }
  return values;
}

}  // namespace nibble
