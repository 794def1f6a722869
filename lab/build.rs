//! The scenarios are part of the program: when one changes, it is built anew.

fn main() {
    println!("cargo::rerun-if-changed=../tests/scenarios");
}
