#include "tests/doc_blocks.h"

#include <fmt/format.h>

#include <algorithm>
#include <optional>

#include "fovea/base/error.h"

namespace fovea {

namespace {

constexpr std::string_view kComment = "<!-- test:";

std::string_view trimmed(std::string_view s) {
  const size_t first = s.find_first_not_of(" \t\n");
  if (first == std::string_view::npos) return {};
  return s.substr(first, s.find_last_not_of(" \t\n") - first + 1);
}

class Reader {
 public:
  Reader(std::string_view page, const std::string& name) : page_(page), name_(name) {}

  std::vector<DocBlock> read() {
    std::string_view line;
    bool after_blank = true, in_list = false;
    while (next(line)) {
      if (trimmed(line).starts_with("```")) {
        fence(line);
      } else if (line.starts_with(kComment)) {
        comment(line);
      } else if (trimmed(line).empty()) {
        after_blank = true;
        continue;
      } else {
        const bool indented = line.starts_with("    ") || line.starts_with("\t");
        if (line.starts_with("- ") || (!line.empty() && line[0] >= '0' && line[0] <= '9'))
          in_list = true;
        else if (line[0] != ' ')
          in_list = false;
        if (indented && after_blank && !in_list)
          fail("an indented block of code; put it between ``` with its language");
        if (pending_) fail_at(pending_->line, "the comment stands before no block of code");
      }
      after_blank = false;
    }
    if (pending_) fail_at(pending_->line, "the comment stands before no block of code");
    return std::move(blocks_);
  }

 private:
  [[noreturn]] void fail_at(int line, const std::string& what) const {
    throw Error(ErrorCode::invalid_argument, fmt::format("[docs] {}:{}: {}", name_, line, what));
  }
  [[noreturn]] void fail(const std::string& what) const { fail_at(line_, what); }

  bool next(std::string_view& line) {
    if (at_ >= page_.size()) return false;
    const size_t end = std::min(page_.find('\n', at_), page_.size());
    line = page_.substr(at_, end - at_);
    at_ = end + 1;
    ++line_;
    return true;
  }

  void fence(std::string_view opening) {
    DocBlock block = pending_.value_or(DocBlock{});
    pending_.reset();
    block.line = line_;
    const size_t indent = opening.find('`');
    block.language = trimmed(opening.substr(indent + 3));
    if (block.language.empty())
      fail("a fence without a language; say sh, cpp, c, cmake, toml, or text for what is no code");
    std::string_view line;
    while (next(line)) {
      if (trimmed(line) == "```") {
        blocks_.push_back(std::move(block));
        return;
      }
      line.remove_prefix(std::min({indent, line.find_first_not_of(' '), line.size()}));
      block.text += std::string(line) + "\n";
    }
    fail_at(block.line, "the fence has no end");
  }

  void comment(std::string_view line) {
    if (pending_) fail_at(pending_->line, "the comment stands before no block of code");
    DocBlock block;
    block.line = line_;
    std::string_view head = line.substr(kComment.size());
    bool more = true;  // lines follow
    if (const size_t end = head.find("-->"); end != std::string_view::npos) {
      head = head.substr(0, end);
      more = false;
    }
    std::string body;
    while (more) {
      if (!next(line)) fail_at(block.line, "the comment has no end");
      if (trimmed(line) == "-->")
        more = false;
      else
        body += std::string(line) + "\n";
    }
    head = trimmed(head);
    const size_t space = std::min(head.find(' '), head.size());
    const std::string_view word = head.substr(0, space);
    block.reason = trimmed(head.substr(space));
    if (word == "setup") {
      if (body.empty()) fail_at(block.line, "a setup without commands");
      block.language = "sh";
      block.mode = DocBlock::Mode::setup;
      block.text = body;
      blocks_.push_back(std::move(block));
      return;
    }
    if (word == "exits") {
      block.mode = DocBlock::Mode::exits;
      if (block.reason.empty() || block.reason.find_first_not_of("0123456789") != std::string::npos)
        fail_at(block.line, "expected a number after 'exits'");
      block.exit_code = std::stoi(block.reason);
    } else if (word == "skip") {
      block.mode = DocBlock::Mode::skip;
    } else if (word == "slow") {
      block.mode = DocBlock::Mode::slow;
    } else if (word == "same") {
      block.mode = DocBlock::Mode::same;
    } else if (word == "instead") {
      block.mode = DocBlock::Mode::instead;
      if (body.empty()) fail_at(block.line, "'instead' without commands");
      block.commands = body;
    } else {
      fail_at(block.line,
              fmt::format("'{}' is none of setup, skip, slow, instead, exits, same", word));
    }
    if (block.reason.empty()) fail_at(block.line, fmt::format("'{}' without a reason", word));
    pending_ = std::move(block);
  }

  std::string_view page_;
  std::string name_;
  size_t at_ = 0;
  int line_ = 0;
  std::optional<DocBlock> pending_;
  std::vector<DocBlock> blocks_;
};

}  // namespace

std::vector<DocBlock> doc_blocks(std::string_view page, const std::string& name) {
  return Reader(page, name).read();
}

std::vector<std::vector<std::string>> shell_commands(std::string_view text) {
  std::vector<std::vector<std::string>> commands(1);
  std::string word;
  bool in_word = false;
  char quote = 0;
  const auto end_word = [&] {
    if (in_word) commands.back().push_back(word);
    word.clear();
    in_word = false;
  };
  const auto end_command = [&] {
    end_word();
    if (!commands.back().empty()) commands.emplace_back();
  };
  for (size_t i = 0; i < text.size(); ++i) {
    const char c = text[i];
    if (quote) {
      if (c == quote)
        quote = 0;
      else
        word += c;
    } else if (c == '\'' || c == '"') {
      quote = c;
      in_word = true;
    } else if (c == '\\' && i + 1 < text.size()) {
      if (text[++i] != '\n') {
        word += text[i];
        in_word = true;
      }
    } else if (c == '#' && !in_word) {
      i = std::min(text.find('\n', i), text.size()) - 1;
    } else if (c == '\n' || c == ';' || c == '|' || c == '&') {
      end_command();
    } else if (c == ' ' || c == '\t') {
      end_word();
    } else {
      word += c;
      in_word = true;
    }
  }
  end_command();
  if (commands.back().empty()) commands.pop_back();
  return commands;
}

}  // namespace fovea
