#include "regex.hpp"

#include "guard.hpp"

#include <algorithm>
#include <cstring>
#include <regex>
#include <string>
#include <vector>

using namespace llama_shim;

// The loader's own line, in llama_model_loader::create_tensor, is
//     std::regex pattern(overrides->pattern);
// that is, the default grammar, ECMAScript, and no other flag.
struct llama_shim_regex {
    std::regex  compiled;
    regex_depth depth;
};

namespace llama_shim {
namespace {

// Reads a pattern far enough to tell how large its automaton is. It does not judge
// whether the pattern is valid, which is std::regex's business.
class pattern_reader {
public:
    explicit pattern_reader(const char * pattern) : at_(pattern) {}

    regex_depth read() {
        std::vector<part> open(1); // the groups around the current place
        while (*at_ != '\0') {
            part & group = open.back();
            switch (*at_) {
                case '(':
                    if (open.size() > LLAMA_SHIM_REGEX_MAX_DEPTH) {
                        refuse("the pattern has more than " + std::to_string(LLAMA_SHIM_REGEX_MAX_DEPTH) +
                               " groups within each other");
                    }
                    skip_group_head();
                    open.emplace_back();
                    continue;
                case ')': {
                    ++at_;
                    if (open.size() == 1) {
                        continue; // unbalanced
                    }
                    const part inner = group;
                    open.pop_back();
                    append(open.back(), inner);
                    continue;
                }
                case '|':
                    ++at_;
                    grow(group, branch_size);
                    continue;
                case '[':
                    skip_class();
                    break;
                case '\\':
                    at_ += at_[1] != '\0' ? 2 : 1;
                    break;
                default:
                    ++at_;
                    break;
            }
            append(group, {1, 0});
        }
        // Groups left open are a mistake, but must not hide what is in them.
        part all = {0, 0};
        for (const part & group : open) {
            grow(all, group.size);
            all.loop = std::max(all.loop, group.loop);
        }
        return {all.size, all.loop};
    }

private:
    // A part of a pattern: the states on the longest way through it, and those on the
    // longest way through an unbounded repetition in it.
    struct part {
        std::size_t size = 0;
        std::size_t loop = 0;

        part() = default;
        part(std::size_t size_, std::size_t loop_) : size(size_), loop(loop_) {}
    };

    // States around a group or a repetition, and at an alternative.
    static constexpr std::size_t frame_size  = 2;
    static constexpr std::size_t branch_size = 2;

    static void grow(part & group, std::size_t by) {
        group.size += by;
        // Checked at each step, so that no product below can overflow.
        require(group.size <= LLAMA_SHIM_REGEX_MAX_STEPS,
                "the pattern is too large: std::regex could overflow the stack");
    }

    // Appends an atom to its group, together with the quantifiers that follow it.
    void append(part & group, part atom) {
        atom.size += frame_size;
        for (;;) {
            std::size_t min = 0;
            std::size_t max = 0;
            bool        unbounded = false;
            switch (*at_) {
                case '*': unbounded = true; ++at_; break;
                case '+': unbounded = true; min = 1; ++at_; break;
                case '?': max = 1; ++at_; break;
                case '{':
                    if (!read_counts(min, max, unbounded)) {
                        grow(group, atom.size);
                        group.loop = std::max(group.loop, atom.loop);
                        return;
                    }
                    break;
                default:
                    grow(group, atom.size);
                    group.loop = std::max(group.loop, atom.loop);
                    return;
            }
            const std::size_t copies = std::max<std::size_t>(1, unbounded ? min + 1 : max);
            if (unbounded) {
                // A repetition within may run empty twice each time this one runs.
                atom.loop = atom.size + frame_size + 2 * atom.loop;
            }
            part sum = {0, atom.loop};
            grow(sum, copies * (atom.size + frame_size));
            atom = sum;
        }
    }

    // Reads "{m}", "{m,}" or "{m,n}"; false for any other use of the brace.
    bool read_counts(std::size_t & min, std::size_t & max, bool & unbounded) {
        const char * p = at_ + 1;
        if (!read_number(p, min)) {
            return false;
        }
        max = min;
        if (*p == ',') {
            ++p;
            unbounded = !read_number(p, max);
        }
        if (*p != '}') {
            return false;
        }
        at_ = p + 1;
        return true;
    }

    static bool read_number(const char *& p, std::size_t & number) {
        const char * first = p;
        std::size_t value = 0;
        for (; *p >= '0' && *p <= '9'; ++p) {
            const std::size_t digit = static_cast<std::size_t>(*p - '0');
            value = std::min<std::size_t>(value * 10 + digit, LLAMA_SHIM_REGEX_MAX_STEPS + 1);
        }
        number = value;
        return p != first;
    }

    void skip_group_head() {
        ++at_;
        if (at_[0] == '?' && (at_[1] == ':' || at_[1] == '=' || at_[1] == '!')) {
            at_ += 2;
        }
    }

    void skip_class() {
        ++at_;
        if (*at_ == '^') {
            ++at_;
        }
        while (*at_ != '\0' && *at_ != ']') {
            at_ += at_[0] == '\\' && at_[1] != '\0' ? 2 : 1;
        }
        if (*at_ == ']') {
            ++at_;
        }
    }

    const char * at_;
};

} // namespace

regex_depth check_pattern(const char * pattern) {
    require(pattern != nullptr, "the pattern is NULL");
    if (std::strlen(pattern) > LLAMA_SHIM_REGEX_MAX_LENGTH) {
        refuse("the pattern is longer than " + std::to_string(LLAMA_SHIM_REGEX_MAX_LENGTH) + " bytes");
    }
    const regex_depth depth = pattern_reader(pattern).read();
    require(depth.fixed + depth.per_byte * LLAMA_SHIM_REGEX_MAX_TEXT <= LLAMA_SHIM_REGEX_MAX_STEPS,
            "an unbounded repetition in the pattern holds too much: std::regex could overflow the stack");
    return depth;
}

} // namespace llama_shim

enum llama_shim_status llama_shim_regex_new(
        const char * pattern, struct llama_shim_regex ** regex, char ** error) noexcept {
    if (regex != nullptr) {
        *regex = nullptr;
    }
    return guard(error, [&] {
        require(regex != nullptr, "there is no place for the pattern");
        const regex_depth depth = check_pattern(pattern);
        *regex = new llama_shim_regex{std::regex(pattern), depth};
    });
}

enum llama_shim_status llama_shim_regex_search(
        const struct llama_shim_regex * regex,
        const char * text,
        bool * matched,
        size_t * begin,
        size_t * end,
        char ** error) noexcept {
    if (matched != nullptr) {
        *matched = false;
    }
    if (begin != nullptr) {
        *begin = 0;
    }
    if (end != nullptr) {
        *end = 0;
    }
    return guard(error, [&] {
        require(regex != nullptr && text != nullptr && matched != nullptr, "an argument is NULL");
        if (std::strlen(text) > LLAMA_SHIM_REGEX_MAX_TEXT) {
            refuse("the text is longer than " + std::to_string(LLAMA_SHIM_REGEX_MAX_TEXT) + " bytes");
        }
        std::cmatch match;
        *matched = std::regex_search(text, match, regex->compiled);
        if (*matched && begin != nullptr) {
            *begin = static_cast<size_t>(match.position(0));
        }
        if (*matched && end != nullptr) {
            *end = static_cast<size_t>(match.position(0) + match.length(0));
        }
    });
}

void llama_shim_regex_free(struct llama_shim_regex * regex) noexcept {
    delete regex;
}
