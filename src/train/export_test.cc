#include "train/export.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <string>
#include <vector>

#include "base/error.h"

namespace weft::train {
namespace {

TEST(trained_weights, that_are_no_numbers_are_refused_by_name) {
  Config config;
  config.model.num_hidden_layers = 2;
  config.model.hidden_size = 8;
  config.model.num_attention_heads = 2;
  config.model.intermediate_size = 16;
  const ParameterTable table = parameters_of(shape_of(config, 32));
  std::vector<float> weights(table.size);
  const Parameter& parameter = table.at("model.layers.1.mlp.down_proj.weight");
  check_finite(table, weights);
  for (const float bad : {std::numeric_limits<float>::quiet_NaN(), -INFINITY}) {
    weights[parameter.offset + 5] = bad;
    try {
      check_finite(table, weights);
      ADD_FAILURE() << bad;
    } catch (const Error& error) {
      EXPECT_EQ(error.kind(), ErrorKind::kInvalidInput);
      EXPECT_NE(std::string(error.what()).find("value 5 of " + parameter.name), std::string::npos)
          << error.what();
    }
  }
}

}  // namespace
}  // namespace weft::train
