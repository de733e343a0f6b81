#include "grammar.hpp"

#include "guard.hpp"

#ifndef LLAMA_SHIM_NO_INTERNALS
// INTERNAL: src/llama-grammar.h: llama_grammar_parser::{parse_rule, rules, symbol_ids}: the
// same rules as the sampler gets, with the parser's message.
#include "llama-grammar.h"
#endif

#include <algorithm>
#include <cstdint>
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
        } else {
            // The parser takes what follows the first byte of a character for its other bytes,
            // even a closing quote.
            const auto first = static_cast<unsigned char>(*at);
            int others = first >= 0xF0 ? 3 : first >= 0xE0 ? 2 : first >= 0xC0 ? 1 : 0;
            for (; others > 0 && at[1] != '\0'; --others) {
                ++at;
            }
        }
    }
    return at;
}

// Skips what may be around the numbers of a repetition.
const char * skip_space(const char * at) {
    for (;;) {
        at += std::strspn(at, " \t\r\n");
        if (*at != '#') {
            return at;
        }
        at += std::strcspn(at, "\r\n");
    }
}

// The parser computes how many times "{m,n}" may go on beyond m without a look at which is the
// greater: with n below m it makes rules until the memory is full.
void check_repetition(const char * at) {
    const auto read = [&at] {
        at += std::strspn(at, "0"); // zeros count for nothing
        const size_t n_digits = std::strspn(at, "0123456789");
        const std::string digits(at, n_digits);
        at = skip_space(at + n_digits);
        return digits;
    };
    at = skip_space(at + 1);
    const std::string min = read();
    if (*at != ',') {
        return;
    }
    at = skip_space(at + 1);
    if (*at < '0' || *at > '9') {
        return; // no maximum
    }
    const std::string max = read();
    if (max.size() < min.size() || (max.size() == min.size() && max < min)) {
        refuse("the grammar has a repetition whose maximum is less than its minimum");
    }
}

// What the parser does not survive: it calls itself for each parenthesis, so they are counted
// before it runs.
void check_text(const char * grammar) {
    int depth = 0;
    for (const char * at = grammar; *at != '\0';) {
        switch (*at) {
            case '"': at = skip_quoted(at, '"'); break;
            case '[': at = skip_quoted(at, ']'); break;
            case '<': at += std::strcspn(at, ">"); break; // a token, which has no escapes
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
            case '{':
                check_repetition(at);
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
    const char * at = skip_space(grammar); // before the first rule; the parser skips what follows a rule
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

// Which rules can match nothing, be it by way of others.
std::vector<bool> nullable_rules(const llama_grammar_parser & parser) {
    // An alternative of references alone matches nothing once all of them can.
    struct alternative {
        size_t rule;
        size_t n_missing;
    };

    const size_t n_rules = parser.rules.size();
    std::vector<bool>                nullable(n_rules);
    std::vector<size_t>              found;
    std::vector<alternative>         alternatives;
    std::vector<std::vector<size_t>> waiting(n_rules); // the alternatives that refer to a rule
    const auto find = [&](size_t rule) {
        if (!nullable[rule]) {
            nullable[rule] = true;
            found.push_back(rule);
        }
    };
    for (size_t i = 0; i < n_rules; ++i) {
        std::vector<size_t> references;
        bool                has_text = false;
        for (const llama_grammar_element & element : parser.rules[i]) {
            if (element.type == LLAMA_GRETYPE_RULE_REF) {
                references.push_back(element.value);
            } else if (!ends_alternative(element)) {
                has_text = true;
            } else {
                if (!has_text && references.empty()) {
                    find(i);
                } else if (!has_text) {
                    for (const size_t reference : references) {
                        waiting[reference].push_back(alternatives.size());
                    }
                    alternatives.push_back({i, references.size()});
                }
                references.clear();
                has_text = false;
            }
        }
    }
    while (!found.empty()) {
        const size_t rule = found.back();
        found.pop_back();
        for (const size_t index : waiting[rule]) {
            if (--alternatives[index].n_missing == 0) {
                find(alternatives[index].rule);
            }
        }
    }
    return nullable;
}

// llama.cpp's search for left recursion looks past rules that have an empty alternative, but not
// past those that match nothing by way of others. Where such a recursion leaves something to be
// matched each time around, the sampler's stack of what is still to match grows until the
// memory is full; where it leaves nothing, the sampler notices that it was there before.
void check_hidden_recursion(const llama_grammar_parser & parser) {
    struct edge {
        size_t to;
        bool   leaves_rest;
    };

    const size_t n_rules = parser.rules.size();
    const std::vector<bool> nullable = nullable_rules(parser);
    std::vector<std::vector<edge>> first(n_rules);
    for (size_t i = 0; i < n_rules; ++i) {
        const llama_grammar_rule & rule = parser.rules[i];
        bool at_start = true;
        for (size_t j = 0; j < rule.size(); ++j) {
            if (ends_alternative(rule[j])) {
                at_start = true;
            } else if (at_start && rule[j].type == LLAMA_GRETYPE_RULE_REF) {
                first[i].push_back({rule[j].value, !ends_alternative(rule[j + 1])});
                at_start = nullable[rule[j].value];
            } else {
                at_start = false;
            }
        }
    }

    // Tarjan's search for the groups of rules that lead to each other, without recursion.
    constexpr size_t unseen = SIZE_MAX;
    size_t n_seen   = 0;
    size_t n_groups = 0;
    std::vector<size_t> order(n_rules, unseen);
    std::vector<size_t> lowest(n_rules);
    std::vector<size_t> group(n_rules, unseen);
    std::vector<size_t> next(n_rules);
    std::vector<size_t> ungrouped;
    std::vector<size_t> way;
    const auto open = [&](size_t rule) {
        order[rule] = lowest[rule] = n_seen++;
        ungrouped.push_back(rule);
        way.push_back(rule);
    };
    for (size_t start = 0; start < n_rules; ++start) {
        if (order[start] != unseen) {
            continue;
        }
        open(start);
        while (!way.empty()) {
            const size_t rule = way.back();
            if (next[rule] < first[rule].size()) {
                const size_t child = first[rule][next[rule]].to;
                if (order[child] == unseen) {
                    open(child); // and then look at it again
                    continue;
                }
                if (group[child] == unseen) {
                    lowest[rule] = std::min(lowest[rule], lowest[child]);
                }
                ++next[rule];
                continue;
            }
            way.pop_back();
            if (lowest[rule] == order[rule]) {
                size_t member = unseen;
                do {
                    member = ungrouped.back();
                    ungrouped.pop_back();
                    group[member] = n_groups;
                } while (member != rule);
                ++n_groups;
            }
        }
    }
    for (size_t rule = 0; rule < n_rules; ++rule) {
        for (const edge & to : first[rule]) {
            if (to.leaves_rest && group[to.to] == group[rule]) {
                refuse("the grammar is left-recursive: rule '" + name_of(parser, to.to) +
                       "' can begin with itself, after rules that match nothing");
            }
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
    check_text(grammar);
    if (*grammar == '\0') {
        return; // allows everything
    }
#ifndef LLAMA_SHIM_NO_INTERNALS
    const llama_grammar_parser parser = parse(vocab, grammar);
    require(!parser.rules.empty(), "the grammar has no rules");
    check_defined(parser, root);
    check_chains(parser);
    check_hidden_recursion(parser);
#endif
}

} // namespace llama_shim
