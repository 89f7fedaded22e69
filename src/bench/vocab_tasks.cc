#include "bench/vocab_tasks.h"

#include <fmt/format.h>

#include <set>
#include <span>
#include <string_view>

#include "base/error.h"
#include "base/random.h"

namespace weft::bench {
namespace {

using Words = std::span<const std::string_view>;

constexpr std::string_view kNames[] = {"Ada",   "Bruno", "Clara", "Dmitri", "Elena", "Farid",
                                       "Grace", "Hugo",  "Ines",  "Jonas",  "Kira",  "Luis",
                                       "Mona",  "Nils",  "Olga",  "Pavel",  "Rosa",  "Sven",
                                       "Tara",  "Umar",  "Vera",  "Wanda",  "Yusuf", "Zoe"};
constexpr std::string_view kCities[] = {"Lisbon", "Oslo",   "Turin",  "Prague", "Ghent",  "Malmo",
                                        "Porto",  "Vienna", "Zurich", "Krakow", "Athens", "Dublin",
                                        "Lyon",   "Bergen", "Seville", "Riga"};
constexpr std::string_view kThings[] = {"lamp",   "kettle", "bicycle", "blanket", "camera", "chair",
                                        "ladder", "mirror", "notebook", "pillow", "radio", "shovel",
                                        "teapot", "violin", "window", "basket"};
constexpr std::string_view kVerbs[] = {"sold",   "found",  "repaired", "painted", "borrowed",
                                       "carried", "broke", "cleaned",  "bought",  "lost"};
constexpr std::string_view kDays[] = {"Monday",   "Tuesday", "Wednesday", "Thursday",
                                      "Friday",   "Saturday", "Sunday"};
constexpr std::string_view kManners[] = {"politely", "in the past tense", "as a question",
                                         "in the plural", "more formally", "in simple words"};
constexpr std::string_view kGoals[] = {
    "returns the sum of a list of numbers",      "returns the largest number in a list",
    "counts the vowels in a string",             "reverses a string",
    "checks whether a number is prime",          "returns the factorial of a number",
    "removes duplicates from a list",            "checks whether a string is a palindrome",
    "counts how often each word occurs",         "returns the even numbers of a list",
    "converts Celsius to Fahrenheit",            "returns the average of a list of numbers",
    "merges two sorted lists",                   "returns the first n Fibonacci numbers",
    "finds the index of an item in a list",      "computes the greatest common divisor"};
constexpr std::string_view kFunctionNames[] = {"solve", "compute", "helper", "process",
                                               "run",   "handle",  "convert", "check"};
constexpr std::string_view kSummaryWishes[] = {
    "Summarise this text in one short sentence.", "Say in one sentence what this text is about.",
    "Give the main point of this text in a few words.", "What happens in this text? One sentence."};
// Openings of Dickens (1859), Austen (1813), Melville (1851), Carroll (1865), Wells (1898),
// Stevenson (1886), Defoe (1719), Shelley (1818), Swift (1726), Grahame (1908), C. Bronte (1847),
// E. Bronte (1847), Baum (1900), Barrie (1911), Burnett (1911), London (1903), Austen (1815), Doyle
// (1887).
constexpr std::string_view kPassages[] = {
    "It was the best of times, it was the worst of times, it was the age of wisdom, it was the age "
    "of "
    "foolishness, it was the epoch of belief, it was the epoch of incredulity, it was the season "
    "of "
    "Light, it was the season of Darkness, it was the spring of hope, it was the winter of "
    "despair.",
    "It is a truth universally acknowledged, that a single man in possession of a good fortune, "
    "must "
    "be in want of a wife. However little known the feelings or views of such a man may be on his "
    "first entering a neighbourhood, this truth is so well fixed in the minds of the surrounding "
    "families, that he is considered the rightful property of some one or other of their "
    "daughters.",
    "Call me Ishmael. Some years ago, never mind how long precisely, having little or no money in "
    "my "
    "purse, and nothing particular to interest me on shore, I thought I would sail about a little "
    "and "
    "see the watery part of the world. It is a way I have of driving off the spleen and regulating "
    "the "
    "circulation.",
    "Alice was beginning to get very tired of sitting by her sister on the bank, and of having "
    "nothing "
    "to do: once or twice she had peeped into the book her sister was reading, but it had no "
    "pictures "
    "or conversations in it, and what is the use of a book, thought Alice, without pictures or "
    "conversations?",
    "No one would have believed in the last years of the nineteenth century that this world was "
    "being "
    "watched keenly and closely by intelligences greater than man's and yet as mortal as his own; "
    "that "
    "as men busied themselves about their various concerns they were scrutinised and studied.",
    "Mr. Utterson the lawyer was a man of a rugged countenance that was never lighted by a smile; "
    "cold, scanty and embarrassed in discourse; backward in sentiment; lean, long, dusty, dreary "
    "and "
    "yet somehow lovable.",
    "I was born in the year 1632, in the city of York, of a good family, though not of that "
    "country, "
    "my father being a foreigner of Bremen, who settled first at Hull. He got a good estate by "
    "merchandise, and leaving off his trade, lived afterwards at York.",
    "You will rejoice to hear that no disaster has accompanied the commencement of an enterprise "
    "which "
    "you have regarded with such evil forebodings. I arrived here yesterday, and my first task is "
    "to "
    "assure my dear sister of my welfare and increasing confidence in the success of my "
    "undertaking.",
    "My father had a small estate in Nottinghamshire: I was the third of five sons. He sent me to "
    "Emanuel College in Cambridge at fourteen years old, where I resided three years, and applied "
    "myself close to my studies.",
    "The Mole had been working very hard all the morning, spring-cleaning his little home. First "
    "with "
    "brooms, then with dusters; then on ladders and steps and chairs, with a brush and a pail of "
    "whitewash; till he had dust in his throat and eyes, and splashes of whitewash all over his "
    "black "
    "fur.",
    "There was no possibility of taking a walk that day. We had been wandering, indeed, in the "
    "leafless "
    "shrubbery an hour in the morning; but since dinner the cold winter wind had brought with it "
    "clouds "
    "so sombre, and a rain so penetrating, that further out-door exercise was now out of the "
    "question.",
    "I have just returned from a visit to my landlord, the solitary neighbour that I shall be "
    "troubled "
    "with. This is certainly a beautiful country! In all England, I do not believe that I could "
    "have "
    "fixed on a situation so completely removed from the stir of society.",
    "Dorothy lived in the midst of the great Kansas prairies, with Uncle Henry, who was a farmer, "
    "and "
    "Aunt Em, who was the farmer's wife. Their house was small, for the lumber to build it had to "
    "be "
    "carried by wagon many miles.",
    "All children, except one, grow up. They soon know that they will grow up, and the way Wendy "
    "knew "
    "was this. One day when she was two years old she was playing in a garden, and she plucked "
    "another "
    "flower and ran with it to her mother.",
    "When Mary Lennox was sent to Misselthwaite Manor to live with her uncle everybody said she "
    "was the "
    "most disagreeable-looking child ever seen. It was true, too. She had a little thin face and a "
    "little thin body, thin light hair and a sour expression.",
    "Buck did not read the newspapers, or he would have known that trouble was brewing, not alone "
    "for "
    "himself, but for every tide-water dog, strong of muscle and with warm, long hair, from Puget "
    "Sound "
    "to San Diego.",
    "Emma Woodhouse, handsome, clever, and rich, with a comfortable home and happy disposition, "
    "seemed "
    "to unite some of the best blessings of existence; and had lived nearly twenty-one years in "
    "the "
    "world with very little to distress or vex her.",
    "In the year 1878 I took my degree of Doctor of Medicine of the University of London, and "
    "proceeded "
    "to Netley to go through the course prescribed for surgeons in the army. Having completed my "
    "studies "
    "there, I was duly attached to the Fifth Northumberland Fusiliers as assistant surgeon."};

// Draws of one prompt, each from its own place in the stream.
class Draw {
 public:
  Draw(uint64_t seed, uint64_t stream) : seed_(seed), stream_(stream) {}
  size_t below(size_t count) {
    return static_cast<size_t>(uniform(seed_, stream_, next_++) * static_cast<double>(count));
  }
  std::string_view of(Words words) { return words[below(words.size())]; }
  size_t between(size_t least, size_t most) { return least + below(most - least + 1); }

 private:
  uint64_t seed_, stream_;
  uint32_t next_ = 0;
};

std::string extraction(Draw& draw) {
  constexpr std::string_view kFields[] = {"customer", "city", "item", "day", "order number"};
  const std::string_view field = draw.of(kFields);
  const std::string record = fmt::format(
      "Order number: {}\nCustomer: {} {}.\nCity: {}\nItem: {}\nQuantity: {}\nDay: {}",
      draw.between(10000, 99999), draw.of(kNames), static_cast<char>('A' + draw.below(26)),
      draw.of(kCities), draw.of(kThings), draw.between(1, 20), draw.of(kDays));
  return fmt::format("{}\n\nWhat is the {}? Answer with it alone.", record, field);
}

std::string summary(Draw& draw) {
  const size_t first = draw.below(std::size(kPassages));
  const size_t second = (first + 1 + draw.below(std::size(kPassages) - 1)) % std::size(kPassages);
  return fmt::format("{}\n\n{} {}", draw.of(kSummaryWishes), kPassages[first], kPassages[second]);
}

std::string rewriting(Draw& draw) {
  const std::string_view manner = draw.of(kManners);
  return fmt::format("Rewrite this sentence {}: {} {} the {} in {} on {}.", manner, draw.of(kNames),
                     draw.of(kVerbs), draw.of(kThings), draw.of(kCities), draw.of(kDays));
}

std::string maths(Draw& draw) {
  const std::string_view name = draw.of(kNames), thing = draw.of(kThings);
  const size_t a = draw.between(12, 98), b = draw.between(3, 11), c = draw.between(2, 9);
  switch (draw.below(3)) {
    case 0:
      return fmt::format("What is {} + {} * {}? Show the steps.", a, b, c);
    case 1:
      return fmt::format("{} has {} {}s and buys {} more. How many does {} have now?", name, a, thing,
                         b, name);
    default:
      return fmt::format("{} shares {} {}s among {} friends. How many does each get?", name, b * c,
                         thing, c);
  }
}

std::string code(Draw& draw) {
  const std::string_view name = draw.of(kFunctionNames);
  return fmt::format("Write a Python function {}_{} that {}. Reply with the code alone.", name,
                     draw.between(1, 99), draw.of(kGoals));
}

struct Maker {
  const char* name;
  std::string (*make)(Draw& draw);
};
constexpr Maker kMakers[] = {{"extraction", extraction},
                             {"summary", summary},
                             {"rewriting", rewriting},
                             {"maths", maths},
                             {"code", code}};

}  // namespace

std::vector<VocabTask> vocab_tasks(size_t prompts_per_task, uint64_t seed) {
  constexpr size_t kMost = 1000;
  WEFT_ASSERT(prompts_per_task <= kMost);
  std::vector<VocabTask> tasks;
  for (const Maker& maker : kMakers) {
    VocabTask& task = tasks.emplace_back();
    task.name = maker.name;
    std::set<std::string> made;
    for (size_t stream = 0; task.prompts.size() < prompts_per_task; ++stream) {
      Draw draw(seed + tasks.size(), stream);
      std::string prompt = maker.make(draw);
      if (made.insert(prompt).second) task.prompts.push_back(std::move(prompt));
    }
  }
  return tasks;
}

std::vector<std::string> vocab_task_names() {
  std::vector<std::string> names;
  for (const Maker& maker : kMakers) names.emplace_back(maker.name);
  return names;
}

}  // namespace weft::bench
