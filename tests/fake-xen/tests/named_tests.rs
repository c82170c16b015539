//! The tables of hostile input name tests; those tests exist.
//!
//! In the last cell of a row, a code span that ends in `.rs` says where the names after it are; without one,
//! the last such code span in the text before the table does. Every other code span there is the name of a test.

#![allow(missing_docs, clippy::arithmetic_side_effects, reason = "test code: a panic is a failed test")]

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

/// Documents with such tables.
const DOCUMENTS: [&str; 2] = ["docs/hostile-input.md", "docs/hostile-input-block.md"];

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

/// The code spans of a line.
fn spans(line: &str) -> impl Iterator<Item = &str> {
    line.split('`').skip(1).step_by(2)
}

fn last_cell(row: &str) -> &str {
    row.trim_end().trim_end_matches('|').rsplit('|').next().unwrap_or("")
}

/// The functions of a file that are tests: marked as such, or in a block of properties.
fn tests_in(text: &str) -> Vec<&str> {
    let mut marked = false;
    let mut found = Vec::new();
    for line in text.lines().map(str::trim_start) {
        if line.starts_with("#[test]") {
            marked = true;
        } else if let (Some(rest), true) = (line.strip_prefix("fn "), marked) {
            found.extend(rest.split(['(', '<']).next());
            marked = false;
        }
    }
    found
}

/// What is wrong with a document, and how many tests it names.
fn judge(document: &str, files: &mut BTreeMap<String, String>) -> (Vec<String>, usize) {
    let (mut wrong, mut count) = (Vec::new(), 0);
    let mut default = None;
    for (number, line) in (1..).zip(document.lines()) {
        if !line.starts_with('|') {
            default = spans(line).filter(|span| span.ends_with(".rs")).last().or(default);
            continue;
        }
        let mut file = default;
        for span in spans(last_cell(line)) {
            if span.ends_with(".rs") {
                file = Some(span);
                continue;
            }
            count += 1;
            let Some(path) = file else {
                wrong.push(format!("line {number}: `{span}` is in no file"));
                continue;
            };
            let text = files
                .entry(path.to_string())
                .or_insert_with(|| fs::read_to_string(root().join(path)).unwrap_or_default());
            if !tests_in(text).contains(&span) {
                wrong.push(format!("line {number}: there is no test `{span}` in {path}"));
            }
        }
    }
    (wrong, count)
}

#[test]
fn every_test_that_a_table_names_exists() {
    let mut files = BTreeMap::new();
    for name in DOCUMENTS {
        let Ok(document) = fs::read_to_string(root().join(name)) else { continue };
        let (wrong, count) = judge(&document, &mut files);
        assert!(wrong.is_empty(), "{name}:\n{}", wrong.join("\n"));
        assert!(count > 20, "{name} names {count} tests: is its last column still that of the tests?");
    }
}

#[test]
fn a_test_that_does_not_exist_is_noticed() {
    let here = "tests/fake-xen/tests/named_tests.rs";
    let table = format!(
        "In `{here}`:\n\n| Case | Test |\n|---|---|\n| a | `every_test_that_a_table_names_exists` |\n| b | `judge` |\n\
         | c `code` | `{here}`: `a_test_that_does_not_exist_is_noticed`, `gone` |\n| d | not tested |\n"
    );
    let (wrong, count) = judge(&table, &mut BTreeMap::new());
    assert_eq!(count, 4);
    assert_eq!(
        wrong,
        [format!("line 6: there is no test `judge` in {here}"), format!("line 7: there is no test `gone` in {here}")]
    );
}
