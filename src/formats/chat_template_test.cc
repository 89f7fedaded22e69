#include "formats/chat_template.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>
#include <optional>
#include <sstream>
#include <string>
#include <thread>
#include <vector>

#include "base/error.h"

namespace weft::formats {
namespace {

using Json = nlohmann::ordered_json;

const std::string kData = WEFT_SOURCE_DIR "/tests/data/chat_templates/";

std::string read_file(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  EXPECT_TRUE(file.is_open()) << path;
  std::ostringstream out;
  out << file.rdbuf();
  return out.str();
}

// What jinja2 would have printed; nothing if the template fails.
std::optional<std::string> render(const std::string& source, const Json& context,
                                  std::string* message = nullptr) {
  try {
    return ChatTemplate(source).render(context);
  } catch (const Error& error) {
    if (message != nullptr) *message = error.what();
    return std::nullopt;
  }
}

std::optional<std::string> expected(const Json& value) {
  return value.is_null() ? std::nullopt : std::optional(value.get<std::string>());
}

TEST(chat_template, real_templates_render_as_jinja2_renders_them) {
  const Json contexts = Json::parse(read_file(kData + "contexts.json"));
  const Json golden = Json::parse(read_file(kData + "golden.json"));
  ASSERT_EQ(golden.size(), 16u);
  for (const auto& [file, cases] : golden.items()) {
    const std::string source = read_file(kData + "templates/" + file);
    ASSERT_EQ(cases.size(), contexts.size());
    for (const auto& [name, want] : cases.items()) {
      std::string message;
      EXPECT_EQ(render(source, contexts[name], &message), expected(want))
          << file << ", " << name << ": " << message;
    }
  }
}

TEST(chat_template, snippets_render_as_jinja2_renders_them) {
  const Json table = Json::parse(read_file(kData + "snippets.json"));
  Json context = table["context"];
  context["unix_time_now"] = 1721952000;
  ASSERT_GT(table["cases"].size(), 600u);
  for (const Json& one : table["cases"]) {
    std::string message;
    EXPECT_EQ(render(one[0], context, &message), expected(one[1])) << one[0] << ": " << message;
  }
}

std::string failure(const std::string& source, const Json& context = Json::object()) {
  std::string message = "no error";
  render(source, context, &message);
  return message;
}

TEST(chat_template, errors_name_line_and_column) {
  EXPECT_NE(failure("a\n  {% nosuch %}").find("line 2, column 6: Encountered unknown tag"),
            std::string::npos);
  EXPECT_NE(failure("a\n\n{{ 1 + }}").find("line 3, column 8"), std::string::npos);
  EXPECT_NE(failure("é {{ x.y }}").find("line 1, column 7: 'x' is undefined"), std::string::npos);
  EXPECT_NE(failure("\n{% if true %}\n{{ raise_exception('too bad') }}{% endif %}")
                .find("line 3, column 19: too bad"),
            std::string::npos);
  EXPECT_NE(failure("{% if true %}").find("expected 'endif'"), std::string::npos);
}

ErrorKind kind_of(const std::string& source, const Json& context = Json::object()) {
  try {
    ChatTemplate(source).render(context);
  } catch (const Error& error) {
    return error.kind();
  }
  ADD_FAILURE() << "rendered: " << source.substr(0, 100);
  return ErrorKind::kIo;
}

TEST(chat_template, what_only_we_refuse_is_unsupported) {
  for (const char* source : {"{% include 'x' %}", "{% block a %}{% endblock %}", "{{ 2 ** 64 }}",
                             "{{ 99999999999999999999 }}", "{{ 'x' | urlize }}", "{{ range }}",
                             "{{ 'x'.zfill(3) }}", "{{ '%*d' % (1, 2) }}"}) {
    EXPECT_EQ(kind_of(source), ErrorKind::kUnsupported) << source;
  }
  EXPECT_EQ(kind_of("{{ x }}", Json::array()), ErrorKind::kInvalidInput);
}

std::string repeated(const std::string& text, size_t count) {
  std::string out;
  for (size_t i = 0; i < count; ++i) out += text;
  return out;
}

TEST(chat_template, nesting_is_bounded_before_the_stack_is) {
  for (const std::string& source :
       {"{{ " + repeated("(", 100000) + " }}", "{{ " + repeated("-", 100000) + "1 }}",
        "{{ " + repeated("not ", 100000) + "1 }}", "{{ " + repeated("[", 100000) + " }}",
        "{{ 1" + repeated("+1", 100000) + " }}", "{{ x" + repeated(".x", 100000) + " }}",
        "{{ x" + repeated("|e", 100000) + " }}", "{{ 1" + repeated(" if 1 else 1", 100000) + " }}",
        "{{ x" + repeated(" is x", 100000) + " }}", repeated("{% if 1 %}", 100000),
        repeated("{% for x in y %}", 100000), "{% set " + repeated("(", 100000)}) {
    EXPECT_NE(failure(source), "no error") << source.substr(0, 20);
  }
  Json deep = 1;
  for (int i = 0; i < 1000; ++i) deep = Json::array({deep});
  EXPECT_EQ(kind_of("{{ x }}", {{"x", deep}}), ErrorKind::kInvalidInput);
  EXPECT_EQ(kind_of("{% set ns = namespace(x=[]) %}{% for i in range(1000) %}"
                    "{% set ns.x = [ns.x] %}{% endfor %}"),
            ErrorKind::kInvalidInput);
}

TEST(chat_template, time_and_memory_are_bounded) {
  for (const char* source :
       {"{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}",
        "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}",
        "{{ 'x' * 999999999999 }}", "{{ [1] * 999999999999 }}", "{{ '%99999999d' % 1 }}",
        "{% set ns = namespace(x='x') %}{% for i in range(99) %}{% set ns.x = ns.x ~ ns.x %}"
        "{% endfor %}",
        "{% set ns = namespace(x=[1]) %}{% for i in range(99) %}{% set ns.x = ns.x + ns.x %}"
        "{% endfor %}",
        "{% set ns = namespace(x=1) %}{% for i in range(90) %}{% set ns.x = [ns.x, ns.x] %}"
        "{% endfor %}{{ ns.x }}",
        "{% set a = 'x' * 99999 %}{{ a | replace('x', a) }}",
        "{% set a = ',' * 99999 %}{{ a.join(range(9999) | map('string')) }}",
        "{{ [1] | tojson(indent=999999999) }}", "{{ 'x' | indent(999999999) }}"}) {
    EXPECT_EQ(kind_of(source), ErrorKind::kInvalidInput) << source;
  }
}

// Namespaces and macros may hold themselves; the leak checker watches.
TEST(chat_template, cycles_are_freed) {
  EXPECT_EQ(render("{% set ns = namespace() %}{% set ns.self = ns %}"
                   "{% macro m() %}{{ m is defined }}{% endmacro %}{% set ns.m = m %}"
                   "{% for x in [1] %}{% set ns.loop = loop %}{% macro k() %}{{ x }}{% endmacro %}"
                   "{{ loop.changed(loop) }}{% endfor %}{{ m() }}",
                   Json::object()),
            "TrueTrue");
}

TEST(chat_template, renders_on_many_threads_at_once) {
  const ChatTemplate shared("{% for x in list %}{{ x * 2 }},{% endfor %}");
  std::vector<std::string> results(4);
  std::vector<std::thread> threads;
  for (std::string& result : results) {
    threads.emplace_back([&] {
      for (int i = 0; i < 100; ++i) result = shared.render({{"list", {1, 2, 3}}});
    });
  }
  for (std::thread& thread : threads) thread.join();
  for (const std::string& result : results) EXPECT_EQ(result, "2,4,6,");
}

// Broken templates end in an Error or a text, whatever is broken.
TEST(chat_template, survives_mutations) {
  std::vector<std::string> seeds;
  for (const auto& entry : std::filesystem::directory_iterator(kData + "templates"))
    seeds.push_back(read_file(entry.path().string()));
  std::sort(seeds.begin(), seeds.end());  // directory order is the file system's whim
  ASSERT_GE(seeds.size(), 8u);
  const Json context = Json::parse(read_file(kData + "contexts.json"))["tool_result"];
  for (const std::string& seed : seeds) render(seed, context);

  static constexpr std::string_view kPieces[] = {"{%", "%}", "{{", "}}", "(", ")", "[",   "]",
                                                 "-",  "|",  "'",  ".",  "*", "%", "\\u", " if ",
                                                 "\xC3", "{#", "endfor", "loop", "1e999", "**"};
  uint64_t state = 20261123;
  const auto random = [&](size_t below) {
    state = state * 6364136223846793005u + 1442695040888963407u;
    return static_cast<size_t>((state >> 33) % below);
  };
  for (int round = 0; round < 3000; ++round) {
    std::string text = seeds[random(seeds.size())];
    for (size_t edits = 1 + random(4); edits > 0; --edits) {
      const size_t at = random(text.size() + 1);
      const std::string_view piece = kPieces[random(std::size(kPieces))];
      if (random(2) == 0) {
        text.insert(at, piece.data(), piece.size());
      } else {
        text.erase(at, 1 + random(8));
      }
    }
    render(text, context);
  }
}

}  // namespace
}  // namespace weft::formats
