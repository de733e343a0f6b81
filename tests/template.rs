//! Prompts from messages: templates in the shape of those that models carry, what they
//! may use, and what a hostile one may not do.

use std::time::{Duration, UNIX_EPOCH};

use llama_moe::{ChatError, ChatTemplate, Error, Message, RenderOptions, Role, ToolCall};
use serde_json::json;

const CHATML: &str = "
{%- for message in messages %}
    {{- '<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>\\n' }}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|im_start|>assistant\\n' }}
{%- endif %}
";

const LLAMA3: &str = "{{- bos_token }}
{%- if not date_string is defined %}{% set date_string = strftime_now('%d %b %Y') %}{% endif %}
{%- if messages[0]['role'] == 'system' %}
    {%- set system_message = messages[0]['content'] | trim %}
    {%- set messages = messages[1:] %}
{%- else %}
    {%- set system_message = '' %}
{%- endif %}
{{- '<|start_header_id|>system<|end_header_id|>\\n\\n' }}
{{- 'Date: ' ~ date_string ~ '\\n' ~ system_message ~ '<|eot_id|>' }}
{%- for message in messages %}
    {{- '<|start_header_id|>' + message['role'] + '<|end_header_id|>\\n\\n' + message['content'] | trim + '<|eot_id|>' }}
{%- endfor %}
{%- if add_generation_prompt %}{{- '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}{% endif %}";

const MISTRAL: &str = "
{%- set ns = namespace(last_user=-1, index=0) %}
{%- for message in messages %}
    {%- if message.role == 'user' %}{% set ns.last_user = loop.index0 %}{% endif %}
{%- endfor %}
{{- bos_token }}
{%- for message in messages %}
    {%- if message.role == 'user' %}
        {%- if tools is not none and loop.index0 == ns.last_user %}
            {{- '[AVAILABLE_TOOLS]' + (tools | map(attribute='function') | list | tojson) + '[/AVAILABLE_TOOLS]' }}
        {%- endif %}
        {{- '[INST]' + message.content + '[/INST]' }}
    {%- elif message.role == 'assistant' and message.tool_calls is defined %}
        {%- for call in message.tool_calls %}
            {%- if call.id is not defined or call.id | length != 9 %}
                {{- raise_exception('Tool call IDs have nine letters') }}
            {%- endif %}
            {{- '[TOOL_CALLS]' + call.function.name + '[ARGS]' + (call.function.arguments | tojson) }}
        {%- endfor %}
        {{- eos_token }}
    {%- elif message.role == 'assistant' %}
        {{- message.content.rstrip() + eos_token }}
    {%- elif message.role == 'tool' %}
        {{- '[TOOL_RESULTS]' + message.tool_call_id + '[TOOL_CONTENT]' + message.content + '[/TOOL_RESULTS]' }}
    {%- else %}
        {{- raise_exception('unknown role: ' + message.role) }}
    {%- endif %}
{%- endfor %}";

const QWEN3: &str = "
{%- if tools %}
    {{- '<|im_start|>system\\n' }}
    {%- for tool in tools %}{{- tool | tojson }}{{- '\\n' }}{%- endfor %}
    {{- '<|im_end|>\\n' }}
{%- endif %}
{%- for message in messages %}
    {%- if message.role == 'assistant' %}
        {%- set content = message.content %}
        {%- if '</think>' in content %}
            {%- set content = content.split('</think>')[-1].lstrip('\\n') %}
        {%- endif %}
        {{- '<|im_start|>assistant\\n' + content }}
        {%- for tool_call in message.tool_calls %}
            {%- if tool_call.function %}{%- set tool_call = tool_call.function %}{%- endif %}
            {{- '<tool_call>' + tool_call.name + ' ' }}
            {%- if tool_call.arguments is string %}
                {{- tool_call.arguments }}
            {%- else %}
                {{- tool_call.arguments | tojson }}
            {%- endif %}
            {{- '</tool_call>' }}
        {%- endfor %}
        {{- '<|im_end|>\\n' }}
    {%- elif message.role == 'tool' %}
        {%- if loop.first or messages[loop.index0 - 1].role != 'tool' %}{{- '<|im_start|>user' }}{%- endif %}
        {{- '\\n<tool_response>' + message.content + '</tool_response>' }}
        {%- if loop.last or messages[loop.index0 + 1].role != 'tool' %}{{- '<|im_end|>\\n' }}{%- endif %}
    {%- else %}
        {{- '<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>\\n' }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|im_start|>assistant\\n' }}
    {%- if enable_thinking is defined and enable_thinking is false %}{{- '<think>\\n\\n</think>\\n\\n' }}{%- endif %}
{%- endif %}";

const HARMONY: &str = "
{%- macro type_of(schema) -%}
    {%- if schema.type == 'array' -%}
        {{- type_of(schema['items']) + '[]' -}}
    {%- elif schema.type == 'object' -%}
        {{- '{' -}}
        {%- for name, inner in schema.properties.items() -%}
            {{- name + ': ' + type_of(inner) -}}{{- ', ' if not loop.last -}}
        {%- endfor -%}
        {{- '}' -}}
    {%- else -%}
        {{- schema.type | default('any') -}}
    {%- endif -%}
{%- endmacro -%}
{{- '<|start|>system<|message|>Reasoning: ' + reasoning_effort | default('medium') + '<|end|>' }}
{%- for tool in tools or [] %}
    {%- set f = tool.function %}
    {{- '<|start|>developer<|message|>type ' + f.name + ' = (_: ' + type_of(f.parameters) + ') => any;<|end|>' }}
{%- endfor %}
{%- for message in messages -%}
    {%- generation -%}
    {%- if message.role == 'assistant' -%}
        {%- if loop.last and not add_generation_prompt -%}
            {{- '<|start|>assistant<|channel|>final<|message|>' + message.content + '<|return|>' }}
        {%- else -%}
            {{- '<|start|>assistant<|channel|>final<|message|>' + message.content + '<|end|>' }}
        {%- endif -%}
        {%- continue -%}
    {%- endif -%}
    {%- endgeneration -%}
    {{- '<|start|>' + message.role + '<|message|>' + message.content + '<|end|>' }}
{%- endfor -%}
{%- if add_generation_prompt -%}<|start|>assistant{%- endif -%}";

const DEEPSEEK: &str = "{% if not add_generation_prompt is defined %}{% set add_generation_prompt = false %}{% endif %}{% set ns = namespace(is_first=true, system='') %}{%- for message in messages %}{%- if message['role'] == 'system' %}{% set ns.system = ns.system + message['content'] %}{%- endif %}{%- endfor %}{{ bos_token }}{{ ns.system }}{%- for message in messages %}{%- if message['role'] == 'user' %}{{ '<｜User｜>' + message['content'] }}{%- endif %}{%- if message['role'] == 'assistant' %}{% set content = message['content'] %}{% if '</think>' in content %}{% set content = content.split('</think>')[-1] %}{% endif %}{{ '<｜Assistant｜>' + content + '<｜end▁of▁sentence｜>' }}{%- endif %}{%- endfor -%}{% if add_generation_prompt %}{{ '<｜Assistant｜><think>\\n' }}{% endif %}";

const GEMMA: &str = "{{ bos_token }}{% if messages[0]['role'] == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}{% for message in messages %}{% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}{{ raise_exception('Roles must alternate') }}{% endif %}{% set role = 'model' if message['role'] == 'assistant' else message['role'] %}{{ '<start_of_turn>' + role + '\\n' + message['content'] | trim + '<end_of_turn>\\n' }}{% endfor %}{% if add_generation_prompt %}{{'<start_of_turn>model\\n'}}{% endif %}";

fn jinja(source: &str) -> ChatTemplate {
    ChatTemplate::jinja(source, Some("<s>"), Some("</s>")).unwrap()
}

fn conversation() -> Vec<Message> {
    vec![
        Message::system("Be brief."),
        Message::user("Hi"),
        Message::assistant("<think>greet</think>\nHello!"),
        Message::user("1+1?"),
    ]
}

fn render(source: &str, messages: &[Message], options: &RenderOptions) -> String {
    jinja(source).render(messages, options).unwrap()
}

fn fails(source: &str) -> ChatError {
    let options = RenderOptions::default();
    match ChatTemplate::jinja(source, None, None)
        .and_then(|template| template.render(&conversation(), &options))
    {
        Err(Error::Chat(error)) => error,
        Err(other) => panic!("{other}"),
        Ok(prompt) => panic!("no error but {} bytes", prompt.len()),
    }
}

fn weather() -> serde_json::Value {
    json!({"type": "function", "function": {
        "name": "weather",
        "description": "The weather of a <city> & \"more\"",
        "parameters": {"type": "object", "properties": {
            "city": {"type": "string"},
            "days": {"type": "array", "items": {"type": "integer"}},
        }},
    }})
}

#[test]
fn chatml() {
    assert_eq!(
        render(CHATML, &conversation()[..2], &RenderOptions::default()),
        "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n"
    );
    assert_eq!(
        render(
            CHATML,
            &conversation()[1..2],
            &RenderOptions::default().with_add_generation_prompt(false)
        ),
        "<|im_start|>user\nHi<|im_end|>\n"
    );
}

#[test]
fn llama3_with_a_date() {
    let now = UNIX_EPOCH + Duration::from_secs(1_721_952_000);
    let options = RenderOptions::default().with_now(now);
    assert_eq!(
        render(LLAMA3, &conversation()[..2], &options),
        "<s><|start_header_id|>system<|end_header_id|>\n\nDate: 26 Jul 2024\nBe brief.<|eot_id|>\
         <|start_header_id|>user<|end_header_id|>\n\nHi<|eot_id|>\
         <|start_header_id|>assistant<|end_header_id|>\n\n"
    );
    let options = options.with_variable("date_string", "today");
    assert!(render(LLAMA3, &conversation(), &options).contains("Date: today\n"));
}

#[test]
fn mistral_with_tools_and_their_results() {
    let call = ToolCall::new("weather", json!({"city": "Århus", "days": [1, 2]}));
    let messages = [
        Message::user("Weather?"),
        Message::assistant("").with_tool_call(call.clone().with_id("abcdefghi")),
        Message::tool("rain").with_tool_call_id("abcdefghi"),
        Message::assistant("It rains. "),
        Message::user("And now?"),
    ];
    let options = RenderOptions::default().with_tools([weather()]);
    assert_eq!(
        render(MISTRAL, &messages, &options),
        "<s>[INST]Weather?[/INST][TOOL_CALLS]weather[ARGS]{\"city\": \"Århus\", \"days\": [1, 2]}</s>\
         [TOOL_RESULTS]abcdefghi[TOOL_CONTENT]rain[/TOOL_RESULTS]It rains.</s>\
         [AVAILABLE_TOOLS][{\"name\": \"weather\", \
         \"description\": \"The weather of a <city> & \\\"more\\\"\", \
         \"parameters\": {\"type\": \"object\", \"properties\": {\"city\": {\"type\": \"string\"}, \
         \"days\": {\"type\": \"array\", \"items\": {\"type\": \"integer\"}}}}}][/AVAILABLE_TOOLS]\
         [INST]And now?[/INST]"
    );

    let messages = [Message::assistant("").with_tool_call(call.with_id("short"))];
    let refused = jinja(MISTRAL).render(&messages, &options).unwrap_err();
    assert!(matches!(
        refused,
        Error::Chat(ChatError::Refused { reason }) if reason == "Tool call IDs have nine letters"
    ));
}

#[test]
fn qwen3_with_and_without_thinking() {
    let prompt = render(QWEN3, &conversation(), &RenderOptions::default());
    assert_eq!(
        prompt,
        "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nHi<|im_end|>\n\
         <|im_start|>assistant\nHello!<|im_end|>\n<|im_start|>user\n1+1?<|im_end|>\n\
         <|im_start|>assistant\n"
    );
    let options = RenderOptions::default().with_variable("enable_thinking", false);
    assert_eq!(
        render(QWEN3, &conversation(), &options),
        prompt + "<think>\n\n</think>\n\n"
    );

    let messages = [
        Message::user("Weather?"),
        Message::assistant("")
            .with_tool_call(ToolCall::new("weather", json!({"city": "Oslo"})))
            .with_tool_call(ToolCall::new("weather", json!("{\"city\":\"Rome\"}"))),
        Message::tool("snow"),
        Message::tool("sun"),
    ];
    let options = RenderOptions::default().with_tools([json!({"b": 1, "a": [true, null, 0.5]})]);
    assert_eq!(
        render(QWEN3, &messages, &options),
        "<|im_start|>system\n{\"b\": 1, \"a\": [true, null, 0.5]}\n<|im_end|>\n\
         <|im_start|>user\nWeather?<|im_end|>\n\
         <|im_start|>assistant\n<tool_call>weather {\"city\": \"Oslo\"}</tool_call>\
         <tool_call>weather {\"city\":\"Rome\"}</tool_call><|im_end|>\n\
         <|im_start|>user\n<tool_response>snow</tool_response>\n\
         <tool_response>sun</tool_response><|im_end|>\n<|im_start|>assistant\n"
    );
}

#[test]
fn harmony_with_macros_and_generation_tags() {
    let options = RenderOptions::default()
        .with_tools([weather()])
        .with_variable("reasoning_effort", "high");
    let messages = [
        Message::new(Role::Developer, "Be kind."),
        Message::user("Hi"),
        Message::assistant("Hello!"),
    ];
    let head = "<|start|>system<|message|>Reasoning: high<|end|>\
        <|start|>developer<|message|>type weather = (_: {city: string, days: integer[]}) => any;<|end|>\
        <|start|>developer<|message|>Be kind.<|end|><|start|>user<|message|>Hi<|end|>\
        <|start|>assistant<|channel|>final<|message|>Hello!";
    assert_eq!(
        render(HARMONY, &messages, &options),
        format!("{head}<|end|><|start|>assistant")
    );
    let options = options.with_add_generation_prompt(false);
    assert_eq!(
        render(HARMONY, &messages, &options),
        format!("{head}<|return|>")
    );
}

#[test]
fn macros_can_call_themselves_as_deep_as_schemas_are() {
    let mut schema = json!({"type": "string"});
    for _ in 0..16 {
        schema = json!({"type": "object", "properties": {"a": {"type": "array", "items": schema}}});
    }
    let tool = json!({"function": {"name": "f", "parameters": schema}});
    let options = RenderOptions::default().with_tools([tool]);
    let prompt = render(HARMONY, &[], &options);
    assert!(prompt.contains(&"{a: ".repeat(16)), "{prompt}");
}

#[test]
fn deepseek_drops_earlier_thoughts() {
    assert_eq!(
        render(DEEPSEEK, &conversation(), &RenderOptions::default()),
        "<s>Be brief.<｜User｜>Hi<｜Assistant｜>\nHello!<｜end▁of▁sentence｜><｜User｜>1+1?<｜Assistant｜><think>\n"
    );
}

#[test]
fn gemma_refuses_a_system_message() {
    let messages = &conversation()[..];
    let options = RenderOptions::default();
    let refused = jinja(GEMMA).render(messages, &options).unwrap_err();
    assert!(matches!(
        &refused,
        Error::Chat(ChatError::Refused { reason }) if reason == "System role not supported"
    ));
    assert_eq!(
        refused.to_string(),
        "the chat template refuses the conversation: System role not supported"
    );
    assert_eq!(
        render(GEMMA, &messages[1..2], &options),
        "<s><start_of_turn>user\nHi<end_of_turn>\n<start_of_turn>model\n"
    );
}

#[test]
fn tojson_is_pythons() {
    let options = RenderOptions::default().with_variable(
        "v",
        json!({"b": [1, {"x": "é<'\u{1f600}\n\u{1}"}], "a": {}, "l": [], "f": 1.0}),
    );
    let cases = [
        (
            "{{ v | tojson }}",
            "{\"b\": [1, {\"x\": \"é<'😀\\n\\u0001\"}], \"a\": {}, \"l\": [], \"f\": 1.0}",
        ),
        (
            "{{ v | tojson(ensure_ascii=true, sort_keys=true, separators=(',', ':')) }}",
            "{\"a\":{},\"b\":[1,{\"x\":\"\\u00e9<'\\ud83d\\ude00\\n\\u0001\"}],\"f\":1.0,\"l\":[]}",
        ),
        (
            "{{ v | tojson(indent=2, ensure_ascii=False) }}",
            "{\n  \"b\": [\n    1,\n    {\n      \"x\": \"é<'😀\\n\\u0001\"\n    }\n  ],\n  \
             \"a\": {},\n  \"l\": [],\n  \"f\": 1.0\n}",
        ),
        (
            "{{ {'a': none, 'b': true} | tojson }}",
            "{\"a\": null, \"b\": true}",
        ),
    ];
    for (source, expected) in cases {
        assert_eq!(render(source, &[], &options), expected, "{source}");
    }
}

#[test]
fn what_is_not_given_is_none_or_not_there() {
    let source = "{{ tools is none }} {{ documents is none }} {{ messages[0].name is defined }} \
                  {{ messages[0].tool_calls is defined }}";
    let prompt = render(source, &[Message::user("x")], &RenderOptions::default());
    assert_eq!(prompt.to_lowercase(), "true true false false");
    let options = RenderOptions::default().with_documents([json!({"text": "d"})]);
    let named = [Message::user("x").with_name("Eve")];
    assert_eq!(
        render(
            "{{ documents[0].text }} {{ messages[0].name }}",
            &named,
            &options
        ),
        "d Eve"
    );
}

#[test]
fn variables_of_the_chat_cannot_be_replaced() {
    for name in ["messages", "tools", "bos_token", "add_generation_prompt"] {
        let options = RenderOptions::default().with_variable(name, 1);
        let error = jinja("x").render(&[], &options).unwrap_err();
        assert!(matches!(
            error,
            Error::Chat(ChatError::ReservedVariable { name: refused }) if refused == name
        ));
    }
}

#[test]
fn a_mistake_is_told_with_its_line() {
    for (source, line) in [
        ("\n{% if %}{% endif %}", 2),
        ("\n\n{{ messages | no_such_filter }}", 3),
        ("{% set x = 1 %}\n{{ messages.x.y.z }}", 2),
        ("\n{{ strftime_now('%Q') }}", 2),
        ("{{ 'unclosed }}", 1),
        ("a\n{% for m in messages %}", 2),
    ] {
        let error = fails(source);
        assert!(
            matches!(error, ChatError::Template { line: Some(told), .. } if told == line),
            "{source}: {error:?}"
        );
    }
}

/// What could run without end, or be larger than memory, is stopped in time.
#[test]
fn a_template_that_takes_too_much_is_stopped() {
    let nested_data = "{% set ns = namespace(x=[]) %}{% for i in range(100000) %}{% set ns.x = [ns.x] %}{% endfor %}";
    let sources = [
        "{% for a in range(100000) %}{% for b in range(100000) %}{% for c in range(100000) %}{% endfor %}{% endfor %}{% endfor %}".to_owned(),
        "{% for a in range(100000) %}{{ 'x' * 100000 }}{% endfor %}".to_owned(),
        "{% set ns = namespace(x='aaaaaaaaaaaaaaaa') %}{% for i in range(100) %}{% set ns.x = ns.x.replace('a', ns.x) %}{% endfor %}".to_owned(),
        "{{ '{:>100000000000}'.format(1) }}".to_owned(),
        "{{ '%100000000000d' | format(1) }}".to_owned(),
        "{{ [[1]] | tojson(indent=1000000000) }}".to_owned(),
        format!("{nested_data}{{{{ ns.x }}}}"),
        format!("{nested_data}{{{{ ns.x | tojson }}}}"),
        "{% set ns = namespace(x=[1]) %}{% for i in range(64) %}{% set ns.x = [ns.x, ns.x] %}{% endfor %}{{ ns.x | tojson }}".to_owned(),
        "{% set ns = namespace(x=[]) %}{% for i in range(1000) %}{% set ns.x | default([ns.x], true) %}{% endset %}{% endfor %}{{ ns.x }}".to_owned(),
        "{{ 1".to_owned() + &"+1".repeat(100_000) + "}}",
        "{% if 0 %}".to_owned() + &"{% elif 0 %}".repeat(100_000) + "{% endif %}",
    ];
    for source in sources {
        let error = fails(&source);
        assert!(
            matches!(error, ChatError::TemplateLimit { .. }),
            "{}: {error:?}",
            &source[..source.len().min(80)]
        );
    }
}

/// What would overflow the stack is an error, or is small enough not to.
#[test]
fn a_template_cannot_overflow_the_stack() {
    let in_itself = [
        "{% set ns = namespace() %}{% set ns.a = ns %}{{ ns }}",
        "{% set ns = namespace() %}{% set ns.a = [{'b': ns}] %}{{ ns }}",
        "{% set a = namespace() %}{% set b = namespace(a=a) %}{% set a.b = b %}{{ a }}",
        "{% set ns = namespace() %}{% for x in [[ns]] %}{% set ns.a, y = x, 1 %}{% endfor %}{{ ns }}",
        "{% set ns = namespace() %}{% for x in [ns, 1] %}{% set ns.a = loop %}{% endfor %}{{ ns }}",
        "{% macro f(x) %}{{ f(x) }}{% endmacro %}{{ f(1) }}",
        "{% for i in [1] recursive %}{{ loop([1]) }}{% endfor %}",
        "{% set ns = namespace() %}{% set ns.a = 1)) ~ [ns] ~ ((1 %}{{ ns }}",
    ];
    for source in in_itself {
        assert!(
            matches!(fails(source), ChatError::Template { .. }),
            "{source}"
        );
    }

    let n = 8_000;
    let chains = [
        ("1", "+1", ""),
        ("1", "~1", ""),
        ("1", "**1", ""),
        ("x", ".a", ""),
        ("x", "()", ""),
        ("1", "|int", ""),
        ("1", " is number", ""),
        ("1", " and 1", ""),
        ("1", " if 1 else 1", ""),
        ("1", " not in []", ""),
        ("", "-", "1"),
        ("", "not ", "1"),
        ("", "(", "1"),
        ("", "[", "1"),
    ];
    let options = RenderOptions::default();
    for (head, link, tail) in chains {
        let size = link.bytes().filter(|byte| *byte != b' ').count();
        let source = format!("{{{{ {head}{}{tail} }}}}", link.repeat(n / size));
        // The result does not matter, only that there is one.
        let _ = ChatTemplate::jinja(&source, None, None)
            .and_then(|template| template.render(&[], &options));
    }
    let elif = format!("{{% if 0 %}}{}{{% endif %}}", "{% elif 0 %}".repeat(2000));
    assert_eq!(render(&elif, &[], &options), "");
    let targets = format!("{{% set {}x = 1 %}}", "(".repeat(n));
    assert!(ChatTemplate::jinja(&targets, None, None).is_err());
    // Data that recursion wraps, as deep as it gets, printed and dropped there.
    let wrap = format!("{}i{}", "[".repeat(70), "]".repeat(70));
    let deep = format!(
        "{{% for i in [1] recursive %}}{{{{ loop([{wrap}]) if loop.depth < 240 else i }}}}{{% endfor %}}"
    );
    let _ = jinja(&deep).render(&[], &options);
}

#[test]
fn what_is_given_to_a_template_is_limited_too() {
    let mut deep = json!(1);
    for _ in 0..200 {
        deep = json!([deep]);
    }
    let options = RenderOptions::default().with_tools([deep]);
    assert!(matches!(
        jinja("x").render(&[], &options),
        Err(Error::Chat(ChatError::TemplateLimit { .. }))
    ));
}

#[test]
fn a_long_conversation_is_within_the_limits() {
    let mut messages = Vec::new();
    for turn in 0..2000 {
        messages.push(Message::user(format!(
            "Question {turn}: {}",
            "why? ".repeat(200)
        )));
        messages.push(Message::assistant(
            "<think>hm</think>\nBecause. ".repeat(50),
        ));
    }
    let tools: Vec<_> = (0..200).map(|_| weather()).collect();
    let options = RenderOptions::default().with_tools(tools);
    for source in [CHATML, QWEN3, HARMONY, MISTRAL, LLAMA3, DEEPSEEK, GEMMA] {
        assert!(render(source, &messages, &options).len() > 1_000_000);
    }
}

#[test]
fn a_template_can_be_used_by_several_threads() {
    let template = jinja(CHATML);
    std::thread::scope(|scope| {
        for n in 0..4 {
            let template = &template;
            scope.spawn(move || {
                let text = format!("message {n}");
                let prompt = template
                    .render(&[Message::user(&*text)], &RenderOptions::default())
                    .unwrap();
                assert!(prompt.contains(&text));
            });
        }
    });
}

#[test]
fn built_in_templates() {
    let names = ChatTemplate::builtin_names();
    assert!(names.iter().any(|name| name == "chatml"), "{names:?}");
    let options = RenderOptions::default();
    for name in &names {
        let template = ChatTemplate::builtin(name).unwrap();
        template.render(&[], &options).unwrap();
        let prompt = template.render(&conversation(), &options).unwrap();
        assert!(prompt.contains("1+1?"), "{name}: {prompt}");
    }
    let template = ChatTemplate::builtin("chatml").unwrap();
    assert_eq!(
        template.render(&conversation()[..2], &options).unwrap(),
        render(CHATML, &conversation()[..2], &options)
    );
    let without = RenderOptions::default().with_add_generation_prompt(false);
    assert_eq!(
        template.render(&[Message::user("")], &without).unwrap(),
        "<|im_start|>user\n<|im_end|>\n"
    );

    match ChatTemplate::builtin("no such") {
        Err(Error::Chat(ChatError::UnknownBuiltin { name, available })) => {
            assert_eq!(name, "no such");
            assert_eq!(available, names);
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_built_in_template_says_what_it_cannot_write() {
    let template = ChatTemplate::builtin("llama3").unwrap();
    let messages = conversation();
    for options in [
        RenderOptions::default().with_tools([weather()]),
        RenderOptions::default().with_documents([json!({})]),
        RenderOptions::default().with_variable("enable_thinking", true),
    ] {
        assert!(matches!(
            template.render(&messages, &options),
            Err(Error::Chat(ChatError::BuiltinLacks { .. }))
        ));
    }
    let call = [Message::assistant("").with_tool_call(ToolCall::new("f", json!({})))];
    assert!(matches!(
        template.render(&call, &RenderOptions::default()),
        Err(Error::Chat(ChatError::BuiltinLacks {
            what: "tool calls",
            ..
        }))
    ));
    assert!(matches!(
        template.render(&[Message::user("a\0b")], &RenderOptions::default()),
        Err(Error::Nul { position: 1, .. })
    ));
}
