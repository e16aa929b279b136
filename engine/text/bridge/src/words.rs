//! Cutting text into the words that are merged one by one: the pre-tokenizers of byte-level BPE.
//!
//! The published patterns end in `\s+(?!\S)|\s+`: a run of white space leaves its last character to the next word. A
//! look-ahead needs a backtracking engine, whose step limit a megabyte of spaces exceeds, so here the run is matched
//! whole and shortened by hand: the same words, in time linear in the text whatever it is.

use regex_automata::{meta::Regex, Anchored, Input};

use crate::border::{Code, Failure, Outcome};

const GPT2: &str = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+";
const LLAMA3: &str = r"'[sS]|'[tT]|'[rR][eE]|'[vV][eE]|'[mM]|'[lL][lL]|'[dD]|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+";
const QWEN2: &str = r"'[sS]|'[tT]|'[rR][eE]|'[vV][eE]|'[mM]|'[lL][lL]|'[dD]|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+";

pub struct WordSplitter {
    word: Regex,
    lone_digit: Option<Regex>,
    binds_newlines: bool, // a word may end in line breaks that are no run of their own
}

impl WordSplitter {
    /// `split` is one of bridge.h's NIBBLE_SPLIT_*.
    pub fn new(split: i32) -> Outcome<Self> {
        let (pattern, lone_digits, binds_newlines) = match split {
            0 => (GPT2, false, false),
            1 => (GPT2, true, false),
            2 => (LLAMA3, false, true),
            3 => (QWEN2, false, true),
            _ => return Err(Failure::new(Code::Unimplemented, format!("word splitter {split} is not known"))),
        };
        let compile = |pattern: &str| {
            Regex::new(pattern).map_err(|error| Failure::new(Code::Internal, error.to_string()))
        };
        let lone_digit = if lone_digits { Some(compile(r"\p{N}")?) } else { None };
        Ok(WordSplitter { word: compile(pattern)?, lone_digit, binds_newlines })
    }

    /// Calls `each` with the words in order; together they are `text`.
    pub fn split<'t>(&self, text: &'t str, each: &mut dyn FnMut(&'t str) -> Outcome<()>) -> Outcome<()> {
        let Some(lone_digit) = &self.lone_digit else {
            return self.split_words(text, each);
        };
        let mut start = 0;
        for digit in lone_digit.find_iter(text) {
            self.split_words(&text[start..digit.start()], each)?;
            each(&text[digit.range()])?;
            start = digit.end();
        }
        self.split_words(&text[start..], each)
    }

    fn split_words<'t>(&self, text: &'t str, each: &mut dyn FnMut(&'t str) -> Outcome<()>) -> Outcome<()> {
        let mut start = 0;
        while start < text.len() {
            let input = Input::new(text).range(start..).anchored(Anchored::Yes);
            let end = self.word.search(&input).map_or(text.len(), |found| found.end());
            let end = self.leave_last_space(text, start, end);
            each(&text[start..end])?;
            start = end;
        }
        Ok(())
    }

    /// `\s+(?!\S)|\s+`: a run of two or more that more text follows gives its last character back.
    fn leave_last_space(&self, text: &str, start: usize, end: usize) -> usize {
        let word = &text[start..end];
        let Some(last) = word.chars().next_back() else { return end };
        let is_bound = self.binds_newlines && (last == '\n' || last == '\r');
        if end < text.len() && word.len() > last.len_utf8() && last.is_whitespace() && !is_bound {
            return end - last.len_utf8();
        }
        end
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(split: i32, text: &str) -> Vec<String> {
        let mut found = Vec::new();
        let splitter = WordSplitter::new(split).unwrap();
        splitter
            .split(text, &mut |word| {
                found.push(word.to_string());
                Ok(())
            })
            .unwrap();
        found
    }

    #[test]
    fn a_run_of_spaces_leaves_the_last_one_to_the_next_word() {
        assert_eq!(words(0, "a   b  "), ["a", "  ", " b", "  "]);
        assert_eq!(words(0, "a\n\nb"), ["a", "\n", "\n", "b"]);
        assert_eq!(words(2, "a \n\n b"), ["a", " \n\n", " b"]);
    }

    #[test]
    fn digits_stand_alone_grouped_or_joined() {
        assert_eq!(words(0, "x 1234"), ["x", " 1234"]);
        assert_eq!(words(1, "x  12"), ["x", "  ", "1", "2"]);
        assert_eq!(words(2, "1234"), ["123", "4"]);
        assert_eq!(words(3, "12"), ["1", "2"]);
    }

    #[test]
    fn contractions_are_case_sensitive_only_in_gpt2() {
        assert_eq!(words(0, "I'M it's"), ["I", "'", "M", " it", "'s"]);
        assert_eq!(words(2, "I'M it's"), ["I", "'M", " it", "'s"]);
    }
}
