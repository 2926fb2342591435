#include "fovea/formats/xml.h"

#include <gtest/gtest.h>

namespace fovea {
namespace {

TEST(Xml, WhatHasAMeaningIsEscaped) {
  EXPECT_EQ(xml_escaped("a<b> & \"c\"\n"), "a&lt;b&gt; &amp; &quot;c&quot; ");
}

}  // namespace
}  // namespace fovea
