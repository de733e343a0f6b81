//! What the compiler must refuse.

#[test]
fn what_must_not_compile() {
    // SAFETY: the only test of this process, and no other thread reads the environment yet.
    // Only types matter here: llama-sys need not compile llama.cpp for that.
    unsafe { std::env::set_var("DOCS_RS", "1") }
    trybuild::TestCases::new().compile_fail("../tests/compile_fail/*.rs");
}
