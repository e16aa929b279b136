//! Text to token ids: whole tokens are cut out, the rest is merged by Hugging Face's BPE model, word by word.

use std::collections::{HashMap, HashSet};

use tokenizers::models::bpe::{Vocab, BPE};
use tokenizers::normalizers::NFC;
use tokenizers::{Model, NormalizedString, Normalizer};

use crate::border::{Code, Failure, Outcome};
use crate::partition::{Partition, Piece};
use crate::words::WordSplitter;

/// What bridge.h calls nibble_vocabulary, borrowed.
pub struct Vocabulary<'v> {
    pub tokens: Vec<&'v str>,
    pub kinds: &'v [u8],
    pub scores: &'v [f32], // empty unless SentencePiece
    pub merges: Vec<&'v str>,
    pub split: i32,
    pub unk_id: Option<usize>,
    pub ignore_merges: bool,
    pub add_space_prefix: bool,
    pub normalize_nfc: bool,
}

const TEXT: u8 = 0;
const USER: u8 = 1;
const CONTROL: u8 = 2;
const BYTE: u8 = 3;
const SENTENCEPIECE: i32 = 4;
const SPACE: char = '\u{2581}'; // SentencePiece's name for ' '

// One word of a model's cache is at most 256 bytes, so a thread's cache stays under a few MiB.
const CACHED_WORDS: usize = 10_000;

pub struct Tokenizer {
    bpe: BPE,
    rules: Rules,
    normalize_nfc: bool,
    user_tokens: Partition,
    all_tokens: Partition, // control tokens as well
}

enum Rules {
    ByteLevel { splitter: WordSplitter, byte_chars: [Option<char>; 256] },
    SentencePiece { add_space_prefix: bool, splits_at_spaces: bool },
}

impl Tokenizer {
    pub fn new(vocabulary: &Vocabulary) -> Outcome<Self> {
        let ids = index(vocabulary)?;
        let is_sentencepiece = vocabulary.split == SENTENCEPIECE;
        let merges = match is_sentencepiece {
            true => merges_from_scores(vocabulary, &ids),
            false => merges_as_listed(vocabulary, &ids)?,
        };
        let rules = match is_sentencepiece {
            true => Rules::SentencePiece {
                add_space_prefix: vocabulary.add_space_prefix,
                splits_at_spaces: merges.iter().all(|(left, right)| !joins_words(left, right)),
            },
            false => Rules::ByteLevel {
                splitter: WordSplitter::new(vocabulary.split)?,
                byte_chars: known_byte_chars(&ids),
            },
        };
        let cut = |id: usize| (id as i32, vocabulary.tokens[id]);
        let of_kind = |kinds: &[u8]| -> Vec<_> {
            let ids = 0..vocabulary.tokens.len();
            ids.filter(|id| kinds.contains(&vocabulary.kinds[*id]) && !vocabulary.tokens[*id].is_empty())
                .map(cut)
                .collect()
        };
        Ok(Tokenizer {
            bpe: build_bpe(vocabulary, &ids, merges, is_sentencepiece)?,
            rules,
            normalize_nfc: vocabulary.normalize_nfc,
            user_tokens: Partition::new(&of_kind(&[USER]))?,
            all_tokens: Partition::new(&of_kind(&[USER, CONTROL]))?,
        })
    }

    pub fn encode(&self, text: &str, guard: Option<char>, parse_control: bool) -> Outcome<Vec<i32>> {
        let partition = if parse_control { &self.all_tokens } else { &self.user_tokens };
        let mut ids = Vec::with_capacity(text.len() / 4);
        let mut after_token = true; // the start of a text counts as one
        for piece in partition.pieces(text, guard) {
            match piece {
                Piece::Token(id) => ids.push(id),
                Piece::Text(text) => match guard.filter(|guard| text.contains(*guard)) {
                    Some(guard) => self.merge(&text.replace(guard, ""), after_token, &mut ids)?,
                    None => self.merge(text, after_token, &mut ids)?,
                },
            }
            after_token = matches!(piece, Piece::Token(_));
        }
        Ok(ids)
    }

    fn merge(&self, text: &str, after_token: bool, ids: &mut Vec<i32>) -> Outcome<()> {
        if self.normalize_nfc && !text.is_ascii() {
            let mut normalized = NormalizedString::from(text);
            NFC.normalize(&mut normalized).map_err(|error| Failure::new(Code::Internal, error.to_string()))?;
            return self.merge_normalized(normalized.get(), after_token, ids);
        }
        self.merge_normalized(text, after_token, ids)
    }

    fn merge_normalized(&self, text: &str, after_token: bool, ids: &mut Vec<i32>) -> Outcome<()> {
        match &self.rules {
            Rules::ByteLevel { splitter, byte_chars } => {
                let mut symbols = String::new();
                splitter.split(text, &mut |word| {
                    symbols.clear();
                    for byte in word.bytes() {
                        match byte_chars[byte as usize] {
                            Some(symbol) => symbols.push(symbol),
                            // A byte without a token is left out, and what is around it does not become neighbours.
                            None => {
                                self.merge_word(&symbols, ids)?;
                                symbols.clear();
                            }
                        }
                    }
                    self.merge_word(&symbols, ids)
                })
            }
            Rules::SentencePiece { add_space_prefix, splits_at_spaces } => {
                let prefix = if *add_space_prefix && after_token { "\u{2581}" } else { "" };
                let text = prefix.to_string() + &text.replace(' ', "\u{2581}");
                if !splits_at_spaces {
                    return self.merge_word(&text, ids);
                }
                let mut start = 0;
                let mut previous = SPACE;
                for (at, symbol) in text.char_indices() {
                    if symbol == SPACE && previous != SPACE {
                        self.merge_word(&text[start..at], ids)?;
                        start = at;
                    }
                    previous = symbol;
                }
                self.merge_word(&text[start..], ids)
            }
        }
    }

    fn merge_word(&self, word: &str, ids: &mut Vec<i32>) -> Outcome<()> {
        if word.is_empty() {
            return Ok(());
        }
        let tokens = self.bpe.tokenize(word).map_err(|error| Failure::new(Code::Internal, error.to_string()))?;
        ids.extend(tokens.iter().map(|token| token.id as i32));
        Ok(())
    }
}

/// Token text to id, each text once. Tokens without text have no entry.
fn index<'v>(vocabulary: &Vocabulary<'v>) -> Outcome<HashMap<&'v str, usize>> {
    let mut ids = HashMap::with_capacity(vocabulary.tokens.len());
    for (id, token) in vocabulary.tokens.iter().enumerate().filter(|(_, token)| !token.is_empty()) {
        if let Some(first) = ids.insert(*token, id) {
            return Err(Failure::invalid(format!("tokens {first} and {id} are both '{}'", shown(token))));
        }
    }
    Ok(ids)
}

fn shown(token: &str) -> String {
    token.chars().take(64).flat_map(char::escape_debug).collect()
}

type Merges = Vec<(String, String)>;

fn merges_as_listed(vocabulary: &Vocabulary, ids: &HashMap<&str, usize>) -> Outcome<Merges> {
    let mut merges = Vec::with_capacity(vocabulary.merges.len());
    let mut seen = HashSet::with_capacity(vocabulary.merges.len());
    for (rank, merge) in vocabulary.merges.iter().enumerate() {
        // The first character is part of the left side even where it is a space.
        let first = merge.chars().next().map_or(0, char::len_utf8);
        let Some(space) = merge[first..].find(' ').map(|at| at + first) else {
            let found = shown(merge);
            return Err(Failure::invalid(format!("merge {rank} is '{found}', it needs two tokens and a space between")));
        };
        let (left, right) = (&merge[..space], &merge[space + 1..]);
        let joined = [left, right].concat();
        for token in [left, right, &joined] {
            if !ids.contains_key(token) {
                let (merge, token) = (shown(merge), shown(token));
                return Err(Failure::invalid(format!("merge {rank} '{merge}' needs '{token}', which is no token")));
            }
        }
        // Only text may come of merging text; and the better of two equal merges is the first.
        let makes_text = [left, right, &joined].iter().all(|token| is_mergeable(vocabulary.kinds[ids[*token]]));
        if makes_text && seen.insert((left, right)) {
            merges.push((left.to_string(), right.to_string()));
        }
    }
    Ok(merges)
}

fn is_mergeable(kind: u8) -> bool {
    kind == TEXT || kind == USER
}

/// SentencePiece joins the pair whose token has the best score: every split of a token into two tokens is a merge, and
/// the scores order them.
fn merges_from_scores(vocabulary: &Vocabulary, ids: &HashMap<&str, usize>) -> Merges {
    let mut merges: Vec<(usize, usize, usize)> = Vec::new();
    let mergeable = |text: &str| ids.get(text).copied().filter(|id| is_mergeable(vocabulary.kinds[*id]));
    for (joined, token) in vocabulary.tokens.iter().enumerate() {
        if !is_mergeable(vocabulary.kinds[joined]) {
            continue;
        }
        for (at, _) in token.char_indices().skip(1) {
            if let (Some(left), Some(right)) = (mergeable(&token[..at]), mergeable(&token[at..])) {
                merges.push((joined, left, right));
            }
        }
    }
    let score = |id: usize| vocabulary.scores.get(id).copied().unwrap_or(0.0);
    merges.sort_by(|a, b| score(b.0).total_cmp(&score(a.0)).then(a.cmp(b)));
    let text = |id: usize| vocabulary.tokens[id].to_string();
    merges.into_iter().map(|(_, left, right)| (text(left), text(right))).collect()
}

/// Whether a merge can cross from the end of one word to the space before the next: then words cannot be merged apart.
fn joins_words(left: &str, right: &str) -> bool {
    !left.ends_with(SPACE) && right.starts_with(SPACE)
}

fn build_bpe(
    vocabulary: &Vocabulary,
    ids: &HashMap<&str, usize>,
    merges: Merges,
    is_sentencepiece: bool,
) -> Outcome<BPE> {
    let usable = |kind: u8| is_mergeable(kind) || (is_sentencepiece && kind == BYTE);
    let unk = vocabulary.unk_id.filter(|_| is_sentencepiece);
    let known: Vocab = ids
        .iter()
        .filter(|(_, id)| usable(vocabulary.kinds[**id]) || unk == Some(**id))
        .map(|(token, id)| (token.to_string(), *id as u32))
        .collect();
    let mut builder = BPE::builder()
        .vocab_and_merges(known, merges)
        .cache_capacity(CACHED_WORDS)
        .byte_fallback(is_sentencepiece)
        .fuse_unk(is_sentencepiece)
        .ignore_merges(vocabulary.ignore_merges);
    if let Some(unk) = unk {
        builder = builder.unk_token(vocabulary.tokens[unk].to_string());
    }
    builder.build().map_err(|error| Failure::invalid(error.to_string()))
}

/// The character that stands for each byte in byte-level BPE, where the vocabulary has it.
fn known_byte_chars(ids: &HashMap<&str, usize>) -> [Option<char>; 256] {
    let mut next = 0x100;
    let mut chars = [None; 256];
    for (byte, known) in chars.iter_mut().enumerate() {
        let is_printable = matches!(byte, 0x21..=0x7e | 0xa1..=0xac | 0xae..=0xff);
        let code = if is_printable { byte as u32 } else { next };
        next += u32::from(!is_printable);
        let symbol = char::from_u32(code);
        *known = symbol.filter(|symbol| ids.contains_key(symbol.encode_utf8(&mut [0; 4]) as &str));
    }
    chars
}
