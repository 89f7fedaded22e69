// Answers one question with a model file: answer MODEL QUESTION
#include <weft/weft.h>

#include <exception>
#include <iostream>

int main(int argc, char** argv) {
  if (argc != 3) {
    std::cerr << "usage: answer MODEL QUESTION\n";
    return 2;
  }
  try {
    weft::Model model(argv[1]);
    const auto show = [](std::string_view piece) {
      std::cout << piece << std::flush;
      return true;
    };
    weft::AnswerOptions options;
    options.max_tokens = 200;
    const weft::Answer answer = model.can_chat() ? model.chat({{"user", argv[2]}}, options, show)
                                                 : model.generate(argv[2], options, show);
    std::cout << "\n[" << answer.answer_tokens << " tokens, " << answer.tokens_per_second
              << " tokens/s]\n";
  } catch (const std::exception& error) {
    std::cerr << error.what() << "\n";
    return 1;
  }
}
