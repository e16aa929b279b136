// The flags of one subcommand: CLI11 options, each with an environment twin and a value that can be
// printed.
//
// --max-context has the twin NIBBLE_MAX_CONTEXT. The command line wins over the environment, the
// environment over the default. Twins are applied by turning them into arguments of the chosen
// subcommand (EnvironmentArgs), and one that means something else in another subcommand has a name
// of its own there (SetTwin), so a variable meant for one subcommand can never break another.
#pragma once

#include <CLI/CLI.hpp>
#include <cstdint>
#include <functional>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"
#include "cli/parse.h"

namespace nibble {

// Null for a variable that is not set. ::getenv in the program, a map in tests.
using Environment = std::function<const char*(const std::string&)>;

class Flags {
 public:
  explicit Flags(CLI::App& app) : app_(&app) {}
  CLI::App& App() { return *app_; }

  // `name` with its dashes ("--threads"); the value it has now is the default that --help shows.
  // T: numbers, std::string, and std::optional of numbers.
  template <typename T>
  CLI::Option* Add(const std::string& name, T& value, const std::string& help);
  // True when given, =true or =1; false when =false.
  CLI::Option* Add(const std::string& name, bool& value, const std::string& help);
  CLI::Option* Add(const std::string& name, Duration& value, const std::string& help);
  CLI::Option* Add(const std::string& name, std::optional<Duration>& value,
                   const std::string& help);
  // Also tells "" from not given.
  CLI::Option* Add(const std::string& name, std::optional<std::string>& value,
                   const std::string& help);
  // One value an occurrence; may be given again and again.
  CLI::Option* Add(const std::string& name, std::vector<std::string>& values,
                   const std::string& help);
  // "1,2,3".
  CLI::Option* Add(const std::string& name, std::vector<int32_t>& values, const std::string& help);
  // "ID=BIAS", also separated by commas; may be given again and again.
  CLI::Option* Add(const std::string& name, std::vector<std::pair<int32_t, float>>& values,
                   const std::string& help);
  // One word out of `words`.
  template <typename E>
  CLI::Option* AddChoice(const std::string& name, E& value,
                         std::vector<std::pair<std::string, E>> words, const std::string& help);

  // The twin of a flag that was added, where Twin's would be another subcommand's; "": it has none.
  void SetTwin(const std::string& name, const std::string& twin);

  // The flags that `add` adds mean something with `needed` only: given without it they are wrong
  // usage, and their twins, which may be another subcommand's, are left out. REQUIRES: `needed` was
  // added before.
  void OnlyWith(const std::string& needed, const std::function<void()>& add);
  // Flags that do not fit together, seen once all are parsed: Check returns the first error.
  void AddCheck(std::function<absl::Status()> check) { checks_.push_back(std::move(check)); }
  absl::Status Check() const;

  // "--flag=value" for every flag whose twin is set and that `args`, the words behind the
  // subcommand's own, do not give. A flag of a group below is left out as well when `args` give
  // another one of its group.
  std::vector<std::string> EnvironmentArgs(const std::vector<std::string>& args,
                                           const Environment& environment) const;
  // An argument without a flag, such as a file's name. It has no twin and is no value of Values().
  CLI::Option* AddPositional(const std::string& name, std::string& value, const std::string& help);

  // What excludes each other, flags and the names of positional arguments: the command line's one
  // silences the twins of the others.
  void Rivals(std::vector<std::string> names) { rivals_.push_back(std::move(names)); }

  // {"max_context": 8192, ...}: the effective value of every flag, in the order they were added.
  nlohmann::ordered_json Values() const;

  static std::string Twin(absl::string_view flag);  // "--max-context" -> "NIBBLE_MAX_CONTEXT"

 private:
  struct Flag {
    std::string name;
    std::string twin;    // "": none
    std::string needed;  // "": no other flag
    CLI::Option* option;
    std::function<nlohmann::ordered_json()> value;
    bool takes_value() const { return option->get_items_expected_max() > 0; }
  };
  // Adds an option that hands each text to `parse`, whose error becomes a usage error.
  CLI::Option* AddParsed(const std::string& name, const std::string& help,
                         std::function<void(const std::string&)> parse,
                         std::function<nlohmann::ordered_json()> value);
  CLI::Option* Register(CLI::Option* option, const std::string& name,
                        std::function<nlohmann::ordered_json()> value);
  // Whether the command line has it: a flag, or with no dashes any positional argument.
  bool Gives(const std::vector<std::string>& args, const std::string& name) const;
  bool GivesPositional(const std::vector<std::string>& args) const;
  static std::string Described(const std::string& name, const std::string& help);

  CLI::App* app_;
  std::vector<Flag> flags_;
  std::vector<std::vector<std::string>> rivals_;
  std::vector<std::function<absl::Status()>> checks_;
};

// True when `args` holds "--name" or "--name=...", before a "--".
bool GivesFlag(const std::vector<std::string>& args, const std::string& name);

// CLI11 2.1 wraps "-1" around to the largest unsigned number.
inline std::string RefuseMinus(const std::string& text) {
  return text.find('-') == std::string::npos ? "" : "found " + text + ", needed 0 or more";
}

template <typename T>
CLI::Option* Flags::Add(const std::string& name, T& value, const std::string& help) {
  if constexpr (std::is_arithmetic_v<T> || std::is_same_v<T, std::string>) {
    CLI::Option* option = app_->add_option(name, value, Described(name, help));
    if constexpr (std::is_same_v<T, std::string>) {
      if (!value.empty()) option->capture_default_str();
    } else {
      option->capture_default_str();
    }
    if constexpr (std::is_unsigned_v<T>) option->check(RefuseMinus);
    return Register(option, name, [&value] { return nlohmann::ordered_json(value); });
  } else {
    CLI::Option* option = app_->add_option(name, value, Described(name, help));
    if constexpr (std::is_unsigned_v<typename T::value_type>) option->check(RefuseMinus);
    return Register(option, name, [&value] {
      return value.has_value() ? nlohmann::ordered_json(*value) : nlohmann::ordered_json();
    });
  }
}

template <typename E>
CLI::Option* Flags::AddChoice(const std::string& name, E& value,
                              std::vector<std::pair<std::string, E>> words,
                              const std::string& help) {
  std::vector<std::string> names;
  std::string now;
  for (const auto& [word, meaning] : words) {
    names.push_back(word);
    if (meaning == value) now = word;
  }
  auto word_of = [&value, words] {
    for (const auto& [word, meaning] : words) {
      if (meaning == value) return nlohmann::ordered_json(word);
    }
    return nlohmann::ordered_json();
  };
  auto parse = [&value, words](const std::string& text) {
    for (const auto& [word, meaning] : words) {
      if (word == text) value = meaning;
    }
  };
  return AddParsed(name, help, parse, word_of)
      ->check(CLI::IsMember(names))
      ->default_str(now)
      ->run_callback_for_default(false);
}

}  // namespace nibble
