# Writes the page's files as a C++ source:
#   cmake -DOUT=page_assets.cc -DFOLDER=src/serve/page -P embed_page.cmake
set(type_html "text/html; charset=utf-8")
set(type_css "text/css; charset=utf-8")
set(type_js "text/javascript; charset=utf-8")
set(type_svg "image/svg+xml")

file(GLOB files ${FOLDER}/*)
list(SORT files)
set(arrays "")
set(entries "")
set(number 0)
foreach(file ${files})
  get_filename_component(name ${file} NAME)
  string(REGEX REPLACE ".*\\." "" suffix ${name})
  file(READ ${file} hex HEX)
  string(REGEX REPLACE "(..)" "'\\\\x\\1'," bytes "${hex}")
  file(SHA256 ${file} hash)
  string(SUBSTRING ${hash} 0 16 tag)
  string(APPEND arrays "constexpr char kFile${number}[] = {${bytes}'\\0'};\n")
  string(APPEND entries "    {\"/${name}\", \"${type_${suffix}}\", {kFile${number}, sizeof kFile${number} - 1}, \"\\\"${tag}\\\"\"},\n")
  math(EXPR number "${number} + 1")
endforeach()
file(WRITE ${OUT} "// Made from ${FOLDER} by embed_page.cmake.
#include \"serve/page_assets.h\"

namespace weft::serve {
namespace {

${arrays}
constexpr PageAsset kAssets[] = {
${entries}};

}  // namespace

std::span<const PageAsset> page_assets() { return kAssets; }

}  // namespace weft::serve
")
