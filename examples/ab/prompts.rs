//! Texts whose embeddings are compared.

/// Twenty of them: short, of several kinds, and the same for every model.
pub const PROMPTS: [&str; 20] = [
    "Why is the sky blue?",
    "How do I keep the experts on the CPU?",
    "A kitten sleeps on the warm windowsill.",
    "The lathe turns the brass rod slowly.",
    "What is the capital of Portugal?",
    "Write a function that reverses a list.",
    "fn add(a: i32, b: i32) -> i32 { a + b }",
    "for i in range(10): print(i * i)",
    "Water boils at a lower temperature on a mountain.",
    "The train to the coast leaves at half past six.",
    "Seven times eight is fifty-six.",
    "If all birds lay eggs, then a hen lays eggs.",
    "She sold the house and moved to a smaller town.",
    "The contract ends on the last day of the month.",
    "Wie komme ich zum Bahnhof?",
    "La biblioteca cierra a las ocho.",
    "A router sends each token to a few experts.",
    "Memory bandwidth limits how fast tokens come.",
    "Mix the flour with water, salt and yeast.",
    "Good morning! How are you today?",
];
