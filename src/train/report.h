// report.html of a training run: what it came to, the curves of its log, and its configuration, on
// one page that needs no other file. Light and dark, as the reader's system is.
#pragma once

#include <filesystem>
#include <string>
#include <string_view>

namespace weft::train {

// `log`: lines as run_log.h draws them, of which a last one may be cut short; `config`: JSON,
// comments allowed. kInvalidInput names the line of the log, or what is wrong with the
// configuration.
std::string report_page(const std::string& title, std::string_view log, std::string_view config);

// Of the log.jsonl in the run's folder, beside which it appears whole. kNotFound, kIo, and as above.
void write_report(const std::filesystem::path& folder, std::string_view config);

}  // namespace weft::train
