//! What the compiler must refuse.

#[test]
fn borrows_cannot_outlive_what_they_borrow() {
    trybuild::TestCases::new().compile_fail("../tests/compile_fail/*.rs");
}
