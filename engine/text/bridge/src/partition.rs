//! Cutting whole tokens (control and user-defined ones) out of a text, before what is left is merged.
//!
//! The longest token goes first over the whole text, then the next: where two occurrences overlap the longer wins,
//! and of two as long the one further left.

use aho_corasick::{AhoCorasick, MatchKind};

use crate::border::{Code, Failure, Outcome};

pub struct Partition {
    finder: Option<AhoCorasick>, // None: nothing to look for
    tokens: Vec<Cut>,
}

struct Cut {
    id: i32,
    size: usize,
    is_single_char: bool,
}

/// A stretch of a text: a token cut out, or what is between.
#[derive(Debug, PartialEq, Eq)]
pub enum Piece<'t> {
    Token(i32),
    Text(&'t str),
}

impl Partition {
    pub fn new(tokens: &[(i32, &str)]) -> Outcome<Self> {
        let cuts = tokens.iter().map(|(id, text)| Cut {
            id: *id,
            size: text.len(),
            is_single_char: text.chars().count() == 1,
        });
        let finder = match tokens.is_empty() {
            true => None,
            false => Some(
                AhoCorasick::builder()
                    .match_kind(MatchKind::Standard)
                    .build(tokens.iter().map(|(_, text)| text))
                    .map_err(|error| Failure::new(Code::Exhausted, format!("control tokens: {error}")))?,
            ),
        };
        Ok(Partition { finder, tokens: cuts.collect() })
    }

    /// `guard` behind a token of one character says that it came from a message and is text. (In a longer token the
    /// guard stands inside, so there is no occurrence.)
    pub fn pieces<'t>(&self, text: &'t str, guard: Option<char>) -> Vec<Piece<'t>> {
        let mut pieces = Vec::new();
        let mut start = 0;
        for (at, token) in self.cuts(text, guard) {
            if at > start {
                pieces.push(Piece::Text(&text[start..at]));
            }
            pieces.push(Piece::Token(token.id));
            start = at + token.size;
        }
        if start < text.len() {
            pieces.push(Piece::Text(&text[start..]));
        }
        pieces
    }

    fn cuts(&self, text: &str, guard: Option<char>) -> Vec<(usize, &Cut)> {
        let Some(finder) = &self.finder else { return Vec::new() };
        let mut found: Vec<(usize, &Cut)> = finder
            .find_overlapping_iter(text)
            .map(|found| (found.start(), &self.tokens[found.pattern().as_usize()]))
            .filter(|(at, token)| {
                !(token.is_single_char && guard.is_some() && text[at + token.size..].chars().next() == guard)
            })
            .collect();
        if found.is_empty() {
            return found;
        }
        found.sort_by_key(|(at, token)| (std::cmp::Reverse(token.size), *at));
        // Whatever was taken before is at least as long, so it shows at one end of what it overlaps.
        let mut taken = vec![false; text.len()];
        found.retain(|(at, token)| {
            let end = at + token.size;
            if taken[*at] || taken[end - 1] {
                return false;
            }
            taken[*at..end].fill(true);
            true
        });
        found.sort_by_key(|(at, _)| *at);
        found
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn partition() -> Partition {
        Partition::new(&[(1, "<s>"), (2, "<s>x"), (3, "x<s>xx"), (4, "!")]).unwrap()
    }

    #[test]
    fn the_longest_token_wins_even_when_it_starts_later() {
        assert_eq!(
            partition().pieces("<s>x<s>xx", None),
            [Piece::Token(1), Piece::Token(3)]
        );
        assert_eq!(partition().pieces("a<s>xb", None), [Piece::Text("a"), Piece::Token(2), Piece::Text("b")]);
    }

    #[test]
    fn a_guarded_token_is_text() {
        assert_eq!(partition().pieces("<\u{e000}s>", Some('\u{e000}')), [Piece::Text("<\u{e000}s>")]);
        assert_eq!(partition().pieces("!\u{e000}", Some('\u{e000}')), [Piece::Text("!\u{e000}")]);
        assert_eq!(partition().pieces("!", Some('\u{e000}')), [Piece::Token(4)]);
    }
}
