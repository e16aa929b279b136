//! The C face (bridge.h) of the crates nibble takes its text handling from. Each exported function only turns pointers
//! into references; what it does is in the module it names.

mod border;
mod chat_template;
mod partition;
mod python;
mod tokenizer;
mod words;

use border::{run, slice, Buffer, Str};
use chat_template::{ChatTemplate, Limits, Message};
use tokenizer::{Tokenizer, Vocabulary};

#[no_mangle]
pub unsafe extern "C" fn nibble_buffer_free(buffer: *mut Buffer<u8>) {
    Buffer::free(buffer)
}

#[no_mangle]
pub unsafe extern "C" fn nibble_ids_free(ids: *mut Buffer<i32>) {
    Buffer::free(ids)
}

#[repr(C)]
pub struct RawVocabulary {
    tokens: *const Str,
    kinds: *const u8,
    scores: *const f32,
    num_tokens: usize,
    merges: *const Str,
    num_merges: usize,
    split: i32,
    unk_id: i32,
    ignore_merges: u8,
    add_space_prefix: u8,
    normalize_nfc: u8,
}

#[no_mangle]
pub unsafe extern "C" fn nibble_tokenizer_new(
    raw: &RawVocabulary,
    out: &mut *mut Tokenizer,
    error: *mut Buffer<u8>,
) -> i32 {
    run(error, || {
        let mut tokens = Vec::with_capacity(raw.num_tokens);
        for (id, token) in slice(raw.tokens, raw.num_tokens).iter().enumerate() {
            tokens.push(token.text(&format!("token {id}"))?);
        }
        let mut merges = Vec::with_capacity(raw.num_merges);
        for (rank, merge) in slice(raw.merges, raw.num_merges).iter().enumerate() {
            merges.push(merge.text(&format!("merge {rank}"))?);
        }
        let has_scores = !raw.scores.is_null();
        let tokenizer = Tokenizer::new(&Vocabulary {
            tokens,
            kinds: slice(raw.kinds, raw.num_tokens),
            scores: slice(raw.scores, if has_scores { raw.num_tokens } else { 0 }),
            merges,
            split: raw.split,
            unk_id: usize::try_from(raw.unk_id).ok(),
            ignore_merges: raw.ignore_merges != 0,
            add_space_prefix: raw.add_space_prefix != 0,
            normalize_nfc: raw.normalize_nfc != 0,
        })?;
        *out = Box::into_raw(Box::new(tokenizer));
        Ok(())
    })
}

#[no_mangle]
pub unsafe extern "C" fn nibble_tokenizer_free(tokenizer: *mut Tokenizer) {
    if !tokenizer.is_null() {
        drop(Box::from_raw(tokenizer));
    }
}

#[no_mangle]
pub unsafe extern "C" fn nibble_tokenizer_encode(
    tokenizer: &Tokenizer,
    text: Str,
    guard: Str,
    parse_control: u8,
    ids_out: *mut Buffer<i32>,
    error: *mut Buffer<u8>,
) -> i32 {
    ids_out.write(Vec::new().into());
    run(error, || {
        let guard = guard.text("guard")?.chars().next();
        let ids = tokenizer.encode(text.text("text")?, guard, parse_control != 0)?;
        ids_out.write(ids.into());
        Ok(())
    })
}

#[repr(C)]
pub struct RawMessage {
    role: Str,
    content: Str,
}

#[no_mangle]
pub unsafe extern "C" fn nibble_template_new(
    source: Str,
    limits: Limits,
    out: &mut *mut ChatTemplate,
    error: *mut Buffer<u8>,
) -> i32 {
    run(error, || {
        let chat_template = ChatTemplate::new(source.text("chat template")?, limits)?;
        *out = Box::into_raw(Box::new(chat_template));
        Ok(())
    })
}

#[no_mangle]
pub unsafe extern "C" fn nibble_template_free(chat_template: *mut ChatTemplate) {
    if !chat_template.is_null() {
        drop(Box::from_raw(chat_template));
    }
}

#[repr(C)]
pub struct RawTemplateInput {
    messages: *const RawMessage,
    num_messages: usize,
    bos_token: Str,
    eos_token: Str,
    now_unix_seconds: i64,
    add_generation_prompt: u8,
}

#[no_mangle]
pub unsafe extern "C" fn nibble_template_render(
    chat_template: &ChatTemplate,
    raw: &RawTemplateInput,
    text_out: *mut Buffer<u8>,
    raised: &mut u8,
    error: *mut Buffer<u8>,
) -> i32 {
    text_out.write(Vec::new().into());
    *raised = 0;
    run(error, || {
        let mut messages = Vec::with_capacity(raw.num_messages);
        for (index, message) in slice(raw.messages, raw.num_messages).iter().enumerate() {
            messages.push(Message {
                role: message.role.text(&format!("messages[{index}].role"))?,
                content: message.content.text(&format!("messages[{index}].content"))?,
            });
        }
        let input = chat_template::Input {
            messages,
            bos_token: raw.bos_token.text("bos_token")?,
            eos_token: raw.eos_token.text("eos_token")?,
            now_unix_seconds: raw.now_unix_seconds,
            add_generation_prompt: raw.add_generation_prompt != 0,
        };
        let rendered = chat_template.render(&input);
        *raised = rendered.as_ref().err().map_or(0, |refusal| refusal.raised as u8);
        text_out.write(rendered.map_err(|refusal| refusal.failure)?.into());
        Ok(())
    })
}
