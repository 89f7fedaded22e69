#include "serve/page_assets.h"
namespace weft::serve {
std::span<const PageAsset> page_assets() { return {}; }
}
