#include "grammar.hpp"

#include "guard.hpp"

#ifndef LLAMA_SHIM_NO_INTERNALS
// INTERNAL: src/llama-grammar.h: llama_grammar_parser::{parse_rule, rules, symbol_ids}: the
// same rules as the sampler gets, with the parser's message.
#include "llama-grammar.h"
#endif

#include <algorithm>
#include <cstring>
#include <string>
#include <vector>

namespace llama_shim {
namespace {

// Skips from the opening to past the closing character, or to the end of the text.
const char * skip_quoted(const char * at, char close) {
    for (++at; *at != '\0'; ++at) {
        if (*at == '\\' && at[1] != '\0') {
            ++at;
        } else if (*at == close) {
            return at + 1;
        }
    }
    return at;
}

// The parser calls itself for each parenthesis, so they are counted before it runs.
void check_nesting(const char * grammar) {
    int depth = 0;
    for (const char * at = grammar; *at != '\0';) {
        switch (*at) {
            case '"': at = skip_quoted(at, '"'); break;
            case '[': at = skip_quoted(at, ']'); break;
            case '<': at = skip_quoted(at, '>'); break;
            case '#': at += std::strcspn(at, "\r\n"); break;
            case '(':
                if (++depth > LLAMA_SHIM_GRAMMAR_MAX_DEPTH) {
                    refuse("the grammar has more than " + std::to_string(LLAMA_SHIM_GRAMMAR_MAX_DEPTH) +
                           " parentheses within each other");
                }
                ++at;
                break;
            case ')':
                --depth;
                ++at;
                break;
            default: ++at; break;
        }
    }
}

#ifndef LLAMA_SHIM_NO_INTERNALS

// The parser's messages quote all that follows the place of the error.
std::string shorten(std::string text) {
    constexpr size_t max_size = 200;
    if (text.size() > max_size) {
        size_t end = max_size;
        while (end > 0 && (static_cast<unsigned char>(text[end]) & 0xC0) == 0x80) {
            --end; // not within a character
        }
        text.erase(end);
        text += " ...";
    }
    return text;
}

llama_grammar_parser parse(const llama_vocab * vocab, const char * grammar) {
    llama_grammar_parser parser(vocab);
    const char * at = grammar;
    // Space before the first rule; the parser skips what follows a rule.
    for (;;) {
        at += std::strspn(at, " \t\r\n");
        if (*at != '#') {
            break;
        }
        at += std::strcspn(at, "\r\n");
    }
    try {
        while (*at != '\0') {
            at = parser.parse_rule(at);
        }
    } catch (const std::bad_alloc &) {
        throw;
    } catch (const std::exception & exception) {
        refuse(shorten(std::string("the grammar does not parse: ") + exception.what()));
    }
    return parser;
}

std::string name_of(const llama_grammar_parser & parser, size_t rule) {
    for (const auto & [name, id] : parser.symbol_ids) {
        if (id == rule) {
            return name;
        }
    }
    return std::to_string(rule);
}

bool ends_alternative(const llama_grammar_element & element) {
    return element.type == LLAMA_GRETYPE_END || element.type == LLAMA_GRETYPE_ALT;
}

void check_defined(const llama_grammar_parser & parser, const char * root) {
    if (parser.symbol_ids.find(root) == parser.symbol_ids.end()) {
        refuse(std::string("the grammar has no rule '") + root + "'");
    }
    for (const auto & [name, id] : parser.symbol_ids) {
        if (id >= parser.rules.size() || parser.rules[id].empty()) {
            refuse("the grammar uses rule '" + name + "', but does not define it");
        }
    }
}

// Which rules a rule can begin with, once per way, as llama.cpp's search for left
// recursion follows them: past a rule that has an empty alternative, but no further.
std::vector<size_t> first_rules(const llama_grammar_rule & rule, const std::vector<bool> & may_be_empty) {
    std::vector<size_t> first;
    bool at_start = true;
    for (const llama_grammar_element & element : rule) {
        if (element.type == LLAMA_GRETYPE_RULE_REF && at_start) {
            first.push_back(element.value);
            at_start = may_be_empty[element.value];
        } else {
            at_start = ends_alternative(element);
        }
    }
    return first;
}

bool has_empty_alternative(const llama_grammar_rule & rule) {
    bool at_start = true;
    for (const llama_grammar_element & element : rule) {
        if (!ends_alternative(element)) {
            at_start = false;
        } else if (at_start) {
            return true;
        } else {
            at_start = true;
        }
    }
    return false;
}

// llama.cpp's search for left recursion calls itself along chains of rules, and visits
// a rule once per way that leads to it: it can overflow the stack, or take exponentially
// long. This one visits each rule once, without recursion, and tells what that one would
// do.
void check_chains(const llama_grammar_parser & parser) {
    enum class stage { unseen, open, done };

    struct node {
        stage               reached = stage::unseen;
        std::vector<size_t> first;
        size_t              next  = 0; // the index in `first` of the rule to visit
        size_t              depth = 1; // calls within each other, from here on
        size_t              steps = 1; // calls altogether, from here on
    };

    const size_t n_rules = parser.rules.size();
    std::vector<bool> may_be_empty(n_rules);
    for (size_t i = 0; i < n_rules; ++i) {
        may_be_empty[i] = has_empty_alternative(parser.rules[i]);
    }

    std::vector<node>   nodes(n_rules);
    std::vector<size_t> way;
    const auto open = [&](size_t rule) {
        nodes[rule].reached = stage::open;
        nodes[rule].first   = first_rules(parser.rules[rule], may_be_empty);
        way.push_back(rule);
    };

    size_t steps = 0;
    for (size_t start = 0; start < n_rules; ++start) {
        if (nodes[start].reached != stage::unseen) {
            continue;
        }
        open(start);
        while (!way.empty()) {
            const size_t rule = way.back();
            node & current = nodes[rule];
            if (current.next == current.first.size()) {
                current.reached = stage::done;
                way.pop_back();
                continue;
            }
            const size_t child = current.first[current.next];
            switch (nodes[child].reached) {
                case stage::unseen:
                    open(child); // and then look at it again
                    break;
                case stage::open:
                    refuse("the grammar is left-recursive: rule '" + name_of(parser, child) +
                           "' can begin with itself");
                case stage::done:
                    current.depth = std::max(current.depth, nodes[child].depth + 1);
                    current.steps += nodes[child].steps;
                    if (current.depth > LLAMA_SHIM_GRAMMAR_MAX_CHAIN) {
                        refuse("the grammar has too long a chain of rules that begin with one another, "
                               "from rule '" + name_of(parser, rule) + "' on");
                    }
                    if (current.steps > LLAMA_SHIM_GRAMMAR_MAX_STEPS) {
                        refuse("the grammar has too many ways through the rules that rule '" +
                               name_of(parser, rule) + "' can begin with");
                    }
                    ++current.next;
                    break;
            }
        }
        steps += nodes[start].steps;
        if (steps > LLAMA_SHIM_GRAMMAR_MAX_STEPS) {
            refuse("the grammar has too many ways through its rules");
        }
    }
}

#endif // LLAMA_SHIM_NO_INTERNALS

} // namespace

void check_grammar(const llama_vocab * vocab, const char * grammar, const char * root) {
    require(vocab != nullptr && llama_vocab_type(vocab) != LLAMA_VOCAB_TYPE_NONE,
            "a grammar needs a vocabulary");
    require(grammar != nullptr && root != nullptr, "the grammar or the name of its root is NULL");
    if (std::strlen(grammar) > LLAMA_SHIM_GRAMMAR_MAX_LENGTH) {
        refuse("the grammar is longer than " + std::to_string(LLAMA_SHIM_GRAMMAR_MAX_LENGTH) + " bytes");
    }
    check_nesting(grammar);
    if (*grammar == '\0') {
        return; // allows everything
    }
#ifndef LLAMA_SHIM_NO_INTERNALS
    const llama_grammar_parser parser = parse(vocab, grammar);
    require(!parser.rules.empty(), "the grammar has no rules");
    check_defined(parser, root);
    check_chains(parser);
#endif
}

} // namespace llama_shim
