// The page's files, embedded in the program.
#pragma once

#include <span>
#include <string_view>

namespace weft::serve {

struct PageAsset {
  std::string_view path, content_type, bytes, etag;
};
std::span<const PageAsset> page_assets();

}  // namespace weft::serve
