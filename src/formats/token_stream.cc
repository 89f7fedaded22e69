#include "formats/tokenizer.h"
#include "formats/unicode.h"

namespace weft::formats {
namespace {

// Where the bytes begin that may still become a character: at most three at the end.
size_t start_of_incomplete(std::string_view bytes) {
  const size_t first = bytes.size() < 3 ? 0 : bytes.size() - 3;
  for (size_t pos = first; pos < bytes.size(); ++pos) {
    if (is_incomplete_utf8(bytes.substr(pos))) return pos;
  }
  return bytes.size();
}

}  // namespace

std::string TokenStream::push(Token token) {
  // The first text goes through decode(), which knows whether a leading space belongs to it.
  const bool first = leading_ == LeadingSpace::kAsDecoded && !started_;
  const std::string bytes = first ? tokenizer_->decode({&token, 1}, show_special_)
                                  : tokenizer_->piece(token, show_special_);
  started_ = started_ || !tokenizer_->piece(token, show_special_).empty();
  held_ += bytes;
  const size_t complete = start_of_incomplete(held_);
  std::string text;
  append_valid_utf8(text, std::string_view(held_).substr(0, complete));
  held_.erase(0, complete);
  return text;
}

std::string TokenStream::finish() {
  std::string text;
  append_valid_utf8(text, held_);
  held_.clear();
  started_ = false;
  return text;
}

}  // namespace weft::formats
