//! What `#[service]` accepts, and what it says about what it does not.

#[test]
fn services_compile_or_say_what_to_write_instead() {
    let cases = trybuild::TestCases::new();
    cases.pass("tests/ui/pass/*.rs");
    cases.compile_fail("tests/ui/fail/*.rs");
}
