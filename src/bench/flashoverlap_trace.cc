// A call of FlashOverlap as a timeline in Chrome's trace event format.
#include <algorithm>
#include <nlohmann/json.hpp>
#include <string>

#include "base/file.h"
#include "bench/flashoverlap_tables.h"

namespace weft::bench {

void write_timeline(const parallel::flash_overlap::Trace& trace, const std::string& what,
                    const std::filesystem::path& path) {
  using Json = nlohmann::ordered_json;
  Json events = Json::array();
  const auto add = [&](const std::string& name, const char* category, size_t row,
                       const parallel::flash_overlap::Trace::Span& span) {
    events.push_back({{"name", name},
                      {"cat", category},
                      {"ph", "X"},
                      {"pid", what},
                      {"tid", row},
                      {"ts", span.begin_s * 1e6},
                      {"dur", (span.end_s - span.begin_s) * 1e6}});
  };
  size_t cores = 0;
  for (size_t i = 0; i < trace.tiles.size(); ++i) {
    add("tile " + std::to_string(i), "compute", trace.tiles[i].core, trace.tiles[i]);
    cores = std::max(cores, trace.tiles[i].core + 1);
  }
  // Several may be under way at once: rows of their own, below the cores'.
  for (size_t i = 0; i < trace.groups.size(); ++i)
    add("group " + std::to_string(i), "sums", cores + i % 4, trace.groups[i]);
  AtomicFile file(path);
  file.write(Json{{"traceEvents", events}}.dump());
  file.commit();
}

}  // namespace weft::bench
