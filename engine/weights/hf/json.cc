#include "engine/weights/hf/json.h"

#include <nlohmann/json.hpp>
#include <set>
#include <utility>

#include "absl/strings/str_cat.h"
#include "engine/base/status_macros.h"
#include "engine/weights/printable.h"

namespace nibble {
namespace {

using Json = nlohmann::json;

// Looks through the text once, building nothing: what is deeper, longer or more than the limits,
// or names a key twice (where readers differ in which they take).
class Bounds final : public nlohmann::json_sax<Json> {
 public:
  explicit Bounds(const JsonLimits& limits) : limits_(limits) {}
  absl::Status status() const { return status_; }

  bool null() override { return Value(); }
  bool boolean(bool) override { return Value(); }
  bool number_integer(number_integer_t) override { return Value(); }
  bool number_unsigned(number_unsigned_t) override { return Value(); }
  bool number_float(number_float_t, const string_t&) override { return Value(); }
  bool string(string_t&) override { return Value(); }
  bool binary(binary_t&) override { return Value(); }
  bool start_object(std::size_t) override { return Open(); }
  bool start_array(std::size_t) override { return Open(); }
  bool end_object() override { return Close(); }
  bool end_array() override { return Close(); }

  bool key(string_t& text) override {
    if (keys_.back().insert(text).second) return true;
    status_ = absl::DataLossError(absl::StrCat("key ", QuoteForMessage(text), " appears twice"));
    return false;
  }

  bool parse_error(std::size_t position, const std::string&,
                   const nlohmann::detail::exception&) override {
    status_ = absl::DataLossError(absl::StrCat("is not JSON at byte ", position));
    return false;
  }

 private:
  bool Exhausted(absl::string_view what, size_t limit) {
    status_ = absl::ResourceExhaustedError(
        absl::StrCat("has more than ", limit, " ", what, ", as many are read"));
    return false;
  }
  bool Value() { return ++values_ <= limits_.values || Exhausted("values", limits_.values); }
  bool Open() {
    if (keys_.size() == limits_.depth) return Exhausted("levels", limits_.depth);
    keys_.emplace_back();
    return Value();
  }
  bool Close() {
    keys_.pop_back();
    return true;
  }

  const JsonLimits& limits_;
  absl::Status status_;
  size_t values_ = 0;
  std::vector<std::set<std::string>> keys_;  // of the objects that are open
};

}  // namespace

JsonObject::JsonObject()
    : file_(std::make_shared<const Json>(Json::object())), object_(file_.get()) {}

JsonObject::JsonObject(std::shared_ptr<const Json> file, const Json* object, std::string name,
                       std::string path)
    : file_(std::move(file)), object_(object), name_(std::move(name)), path_(std::move(path)) {}

absl::StatusOr<JsonObject> JsonObject::Parse(absl::string_view text, absl::string_view name,
                                             const JsonLimits& limits) {
  const auto refuse = [&](const absl::Status& status) {
    return absl::Status(status.code(), absl::StrCat(name, ": ", status.message()));
  };
  if (text.size() > limits.bytes) {
    return refuse(absl::ResourceExhaustedError(
        absl::StrCat("has ", text.size(), " bytes, at most ", limits.bytes, " are read")));
  }
  // The JSON library takes a zero byte for the end of its input.
  if (const size_t zero = text.find('\0'); zero != absl::string_view::npos) {
    return refuse(absl::DataLossError(absl::StrCat("is not JSON at byte ", zero)));
  }
  Bounds bounds(limits);
  const char* begin = text.data();
  Json::sax_parse(begin, begin + text.size(), &bounds);
  if (!bounds.status().ok()) return refuse(bounds.status());
  auto file = std::make_shared<const Json>(Json::parse(begin, begin + text.size(), nullptr,
                                                       /*allow_exceptions=*/false));
  if (!file->is_object()) return refuse(absl::DataLossError("is not a JSON object"));
  const Json* object = file.get();
  return JsonObject(std::move(file), object, std::string(name), "");
}

const Json* JsonObject::Find(absl::string_view key) const {
  const auto it = object_->find(std::string(key));
  return it == object_->end() || it->is_null() ? nullptr : &*it;
}

bool JsonObject::Has(absl::string_view key) const { return Find(key) != nullptr; }
bool JsonObject::empty() const { return object_->empty(); }

std::vector<std::string> JsonObject::Keys() const {
  std::vector<std::string> keys;
  for (const auto& [key, value] : object_->items()) keys.push_back(key);
  return keys;
}

bool JsonObject::IsString(absl::string_view key) const {
  const Json* value = Find(key);
  return value != nullptr && value->is_string();
}
bool JsonObject::IsArray(absl::string_view key) const {
  const Json* value = Find(key);
  return value != nullptr && value->is_array();
}
bool JsonObject::IsObject(absl::string_view key) const {
  const Json* value = Find(key);
  return value != nullptr && value->is_object();
}

std::string JsonObject::Describe(absl::string_view key) const {
  const Json* value = Find(key);
  if (value == nullptr) return "nothing";
  if (value->is_string()) return QuoteForMessage(value->get_ref<const std::string&>());
  if (value->is_object()) return absl::StrCat("an object of ", value->size(), " keys");
  if (value->is_array() && value->size() > 8) {
    return absl::StrCat("an array of ", value->size(), " values");
  }
  const std::string text = value->dump(-1, ' ', true, Json::error_handler_t::replace);
  return text.size() <= 120 ? text : absl::StrCat(text.substr(0, 120), "...");
}

absl::Status JsonObject::Problem(absl::StatusCode code, absl::string_view key,
                                 absl::string_view why) const {
  // A key may be the file's own (config_groups), with anything in it.
  const std::string whole = absl::StrCat(path_, key);
  const bool printable = IsPrintableName(whole, whole.size());
  return absl::Status(
      code, absl::StrCat(name_, ": key ",
                         printable ? absl::StrCat("'", whole, "'") : QuoteForMessage(whole), " is ",
                         Describe(key), ", ", why));
}
absl::Status JsonObject::Unfit(absl::string_view key, absl::string_view needed) const {
  return Problem(absl::StatusCode::kInvalidArgument, key, needed);
}
absl::Status JsonObject::NotImplemented(absl::string_view key, absl::string_view why) const {
  return Problem(absl::StatusCode::kUnimplemented, key, why);
}

absl::StatusOr<int64_t> JsonObject::Int(absl::string_view key, int64_t min, int64_t max,
                                        std::optional<int64_t> absent) const {
  const Json* value = Find(key);
  if (value == nullptr && absent.has_value()) return *absent;
  const auto unfit = [&] {
    return Unfit(key, absl::StrCat("needed a whole number from ", min, " to ", max));
  };
  if (value == nullptr || !value->is_number_integer()) return unfit();
  const bool huge = value->is_number_unsigned() && value->get<uint64_t>() > uint64_t{1} << 62;
  if (huge || value->get<int64_t>() < min || value->get<int64_t>() > max) return unfit();
  return value->get<int64_t>();
}

absl::StatusOr<double> JsonObject::Number(absl::string_view key,
                                          std::optional<double> absent) const {
  const Json* value = Find(key);
  if (value == nullptr && absent.has_value()) return *absent;
  if (value == nullptr || !value->is_number()) return Unfit(key, "needed a number");
  return value->get<double>();
}

absl::StatusOr<bool> JsonObject::Bool(absl::string_view key, bool absent) const {
  const Json* value = Find(key);
  if (value == nullptr) return absent;
  if (!value->is_boolean()) return Unfit(key, "needed true or false");
  return value->get<bool>();
}

absl::StatusOr<std::string> JsonObject::String(absl::string_view key,
                                               std::optional<std::string> absent) const {
  const Json* value = Find(key);
  if (value == nullptr && absent.has_value()) return *absent;
  if (value == nullptr || !value->is_string()) return Unfit(key, "needed a string");
  return value->get<std::string>();
}

JsonObject JsonObject::Child(const Json* object, absl::string_view key) const {
  return JsonObject(file_, object, name_, absl::StrCat(path_, key, "."));
}

absl::StatusOr<JsonObject> JsonObject::Object(absl::string_view key) const {
  const Json* value = Find(key);
  if (value == nullptr) {
    JsonObject nothing;
    nothing.name_ = name_;
    nothing.path_ = absl::StrCat(path_, key, ".");
    return nothing;
  }
  if (!value->is_object()) return Unfit(key, "needed an object");
  return Child(value, key);
}

absl::StatusOr<std::vector<JsonObject>> JsonObject::Objects(absl::string_view key) const {
  std::vector<JsonObject> objects;
  const Json* value = Find(key);
  if (value == nullptr) return objects;
  if (!value->is_array()) return Unfit(key, "needed an array of objects");
  for (const Json& item : *value) {
    if (!item.is_object()) return Unfit(key, "needed an array of objects");
    objects.push_back(Child(&item, absl::StrCat(key, "[", objects.size(), "]")));
  }
  return objects;
}

absl::StatusOr<std::vector<std::string>> JsonObject::Strings(absl::string_view key) const {
  std::vector<std::string> strings;
  const Json* value = Find(key);
  if (value == nullptr) return strings;
  if (!value->is_array()) return Unfit(key, "needed an array of strings");
  for (const Json& item : *value) {
    if (!item.is_string()) return Unfit(key, "needed an array of strings");
    strings.push_back(item.get<std::string>());
  }
  return strings;
}

absl::StatusOr<std::vector<std::pair<std::string, std::string>>> JsonObject::Pairs(
    absl::string_view key) const {
  std::vector<std::pair<std::string, std::string>> pairs;
  const Json* value = Find(key);
  if (value == nullptr) return pairs;
  const auto unfit = [&] {
    return Unfit(key, absl::StrCat("entry ", pairs.size(),
                                   " of it is no \"left right\" and no "
                                   "pair of strings"));
  };
  if (!value->is_array()) return unfit();
  pairs.reserve(value->size());
  for (const Json& item : *value) {
    if (item.is_string()) {
      const auto& text = item.get_ref<const std::string&>();
      const size_t space = text.find(' ', 1);
      if (space == std::string::npos || space + 1 == text.size()) return unfit();
      pairs.emplace_back(text.substr(0, space), text.substr(space + 1));
    } else if (item.is_array() && item.size() == 2 && item[0].is_string() && item[1].is_string()) {
      pairs.emplace_back(item[0].get<std::string>(), item[1].get<std::string>());
    } else {
      return unfit();
    }
  }
  return pairs;
}

absl::StatusOr<std::vector<int64_t>> JsonObject::Ints(absl::string_view key) const {
  std::vector<int64_t> ints;
  const Json* value = Find(key);
  if (value == nullptr) return ints;
  if (!value->is_array()) return Unfit(key, "needed an array of whole numbers");
  for (const Json& item : *value) {
    const bool huge = item.is_number_unsigned() && item.get<uint64_t>() > uint64_t{1} << 62;
    if (!item.is_number_integer() || huge) return Unfit(key, "needed an array of whole numbers");
    ints.push_back(item.get<int64_t>());
  }
  return ints;
}

absl::StatusOr<std::vector<double>> JsonObject::Numbers(absl::string_view key) const {
  std::vector<double> numbers;
  const Json* value = Find(key);
  if (value == nullptr) return numbers;
  if (!value->is_array()) return Unfit(key, "needed an array of numbers");
  for (const Json& item : *value) {
    if (!item.is_number()) return Unfit(key, "needed an array of numbers");
    numbers.push_back(item.get<double>());
  }
  return numbers;
}

}  // namespace nibble
