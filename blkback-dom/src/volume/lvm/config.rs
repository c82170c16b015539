//! The text that describes a volume group: sections, numbers, strings and arrays.

use alloc::string::{String, ToString};
use alloc::vec::Vec;

/// Deepest nesting of sections.
const MAX_DEPTH: usize = 8;
/// Most entries of a text.
const MAX_ENTRIES: usize = 20_000;

/// A value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Value {
    Number(u64),
    Text(String),
    List(Vec<Value>),
    Section(Section),
}

/// Named values in order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Section(pub(super) Vec<(String, Value)>);

impl Section {
    fn get(&self, name: &str) -> Option<&Value> {
        self.0.iter().find(|(key, _)| key == name).map(|(_, value)| value)
    }

    pub(super) fn number(&self, name: &str) -> Option<u64> {
        match self.get(name)? {
            Value::Number(number) => Some(*number),
            _ => None,
        }
    }

    pub(super) fn text(&self, name: &str) -> Option<&str> {
        match self.get(name)? {
            Value::Text(text) => Some(text),
            _ => None,
        }
    }

    pub(super) fn list(&self, name: &str) -> Option<&[Value]> {
        match self.get(name)? {
            Value::List(list) => Some(list),
            _ => None,
        }
    }

    pub(super) fn section(&self, name: &str) -> Option<&Self> {
        match self.get(name)? {
            Value::Section(section) => Some(section),
            _ => None,
        }
    }

    /// The sections in it, with their names.
    pub(super) fn sections(&self) -> impl Iterator<Item = (&str, &Self)> {
        self.0.iter().filter_map(|(name, value)| match value {
            Value::Section(section) => Some((name.as_str(), section)),
            _ => None,
        })
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Token<'t> {
    Name(&'t str),
    Text(&'t str),
    Mark(char),
}

struct Parser<'t> {
    rest: &'t str,
    entries: usize,
}

/// Reads a text; `None` if it is malformed, too deep or too long.
pub(super) fn parse(text: &str) -> Option<Section> {
    // Texts end with a zero byte.
    let mut parser = Parser { rest: text.trim_end_matches('\0'), entries: 0 };
    let mut top = Section::default();
    while let Some(token) = parser.token()? {
        let Token::Name(name) = token else { return None };
        top.0.push((name.to_string(), parser.value(0)?));
    }
    Some(top)
}

impl<'t> Parser<'t> {
    /// The next token; `Some(None)` at the end.
    fn token(&mut self) -> Option<Option<Token<'t>>> {
        self.entries = self.entries.checked_add(1).filter(|entries| *entries <= MAX_ENTRIES.saturating_mul(4))?;
        loop {
            self.rest = self.rest.trim_start();
            let Some(comment) = self.rest.strip_prefix('#') else { break };
            self.rest = comment.split_once('\n').map_or("", |(_, after)| after);
        }
        let Some(first) = self.rest.chars().next() else { return Some(None) };
        if "{}[]=,".contains(first) {
            self.rest = self.rest.get(1..)?;
            return Some(Some(Token::Mark(first)));
        }
        if let Some(quoted) = self.rest.strip_prefix('"') {
            let (text, after) = split_quoted(quoted)?;
            self.rest = after;
            return Some(Some(Token::Text(text)));
        }
        let end =
            self.rest.find(|c: char| !(c.is_ascii_alphanumeric() || "_.+-".contains(c))).unwrap_or(self.rest.len());
        let (name, after) = self.rest.split_at_checked(end).filter(|(name, _)| !name.is_empty())?;
        self.rest = after;
        Some(Some(Token::Name(name)))
    }

    /// What follows a name: `= value` or `{ ... }`.
    fn value(&mut self, depth: usize) -> Option<Value> {
        match self.token()?? {
            Token::Mark('=') => self.plain_or_list(),
            Token::Mark('{') if depth < MAX_DEPTH => self.section(depth.saturating_add(1)).map(Value::Section),
            _ => None,
        }
    }

    fn section(&mut self, depth: usize) -> Option<Section> {
        let mut section = Section::default();
        loop {
            match self.token()?? {
                Token::Mark('}') => return Some(section),
                Token::Name(name) => section.0.push((name.to_string(), self.value(depth)?)),
                _ => return None,
            }
        }
    }

    fn plain_or_list(&mut self) -> Option<Value> {
        match self.token()?? {
            Token::Mark('[') => self.list(),
            other => plain(other),
        }
    }

    fn list(&mut self) -> Option<Value> {
        let mut list = Vec::new();
        loop {
            match self.token()?? {
                Token::Mark(']') => return Some(Value::List(list)),
                Token::Mark(',') => {}
                other => list.push(plain(other)?),
            }
        }
    }
}

/// Splits at the closing quote: the text, its escapes untouched, and what follows.
fn split_quoted(quoted: &str) -> Option<(&str, &str)> {
    let mut escaped = false;
    let end = quoted.bytes().position(|byte| {
        let closes = byte == b'"' && !escaped;
        escaped = byte == b'\\' && !escaped;
        closes
    })?;
    let (text, rest) = quoted.split_at_checked(end)?;
    Some((text, rest.strip_prefix('"')?))
}

/// Takes the backslash away in front of each escaped character.
fn unescape(text: &str) -> String {
    let mut escaped = false;
    let kept = text.chars().filter(|c| {
        escaped = *c == '\\' && !escaped;
        !escaped
    });
    kept.collect()
}

fn plain(token: Token<'_>) -> Option<Value> {
    match token {
        Token::Text(text) => Some(Value::Text(unescape(text))),
        // Negative and fractional numbers occur where nothing is read; they only have to be passed over.
        Token::Name(name) => Some(name.parse().map_or_else(|_| Value::Text(name.to_string()), Value::Number)),
        Token::Mark(_) => None,
    }
}
