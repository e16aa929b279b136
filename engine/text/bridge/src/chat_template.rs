//! A model file's chat template, rendered as Hugging Face transformers renders it: Jinja with trim_blocks and
//! lstrip_blocks, Python's string methods, `raise_exception`, `strftime_now`, `tojson` and loop controls.

use std::io::Write;

use minijinja::{context, Environment, Error, ErrorKind, Value};
use regex_automata::meta::Regex;

use crate::border::{Code, Failure, Outcome};
use crate::python;

#[repr(C)]
#[derive(Clone, Copy)]
pub struct Limits {
    fuel: u64,
    output_size: usize,
    depth: usize,
}

pub struct ChatTemplate {
    environment: Environment<'static>,
    limits: Limits,
}

pub struct Message<'m> {
    pub role: &'m str,
    pub content: &'m str,
}

pub struct Input<'m> {
    pub messages: Vec<Message<'m>>,
    pub bos_token: &'m str,
    pub eos_token: &'m str,
    pub now_unix_seconds: i64,
    pub add_generation_prompt: bool,
}

/// Why there is no rendering; `raised` when the template itself called raise_exception.
pub struct Refusal {
    pub failure: Failure,
    pub raised: bool,
}

const NAME: &str = "chat_template";

impl ChatTemplate {
    pub fn new(source: &str, limits: Limits) -> Outcome<Self> {
        let mut environment = Environment::new();
        environment.set_trim_blocks(true);
        environment.set_lstrip_blocks(true);
        environment.set_fuel(Some(limits.fuel));
        environment.set_recursion_limit(limits.depth);
        environment.set_formatter(python::print);
        environment.set_unknown_method_callback(minijinja_contrib::pycompat::unknown_method_callback);
        environment.add_filter("tojson", python::tojson);
        environment.add_function("raise_exception", |text: String| -> Result<Value, Error> {
            Err(Error::new(ErrorKind::InvalidOperation, "raise_exception").with_source(Raised(text)))
        });
        environment
            .add_template_owned(NAME, without_generation_tags(source)?)
            .map_err(|error| failure_of(&error, &limits))?;
        Ok(ChatTemplate { environment, limits })
    }

    pub fn render(&self, input: &Input) -> Result<Vec<u8>, Refusal> {
        let now = input.now_unix_seconds;
        let messages: Vec<Value> = input
            .messages
            .iter()
            .map(|message| context! { role => message.role, content => message.content })
            .collect();
        let context = context! {
            messages,
            tools => Value::from(()),
            documents => Value::from(()),
            add_generation_prompt => input.add_generation_prompt,
            bos_token => input.bos_token,
            eos_token => input.eos_token,
            strftime_now => Value::from_function(move |format: String| python::strftime(now, &format)),
        };
        let mut out = LimitedWriter { text: Vec::new(), limit: self.limits.output_size, is_full: false };
        let rendered = self
            .environment
            .get_template(NAME)
            .and_then(|template| template.render_captured_to(context, &mut out).map(drop));
        match rendered {
            Ok(()) => Ok(out.text),
            Err(_) if out.is_full => Err(Refusal {
                failure: Failure::new(
                    Code::Exhausted,
                    format!("chat template: more than {} bytes of output", out.limit),
                ),
                raised: false,
            }),
            Err(error) => Err(Refusal {
                raised: find::<Raised>(&error).is_some(),
                failure: failure_of(&error, &self.limits),
            }),
        }
    }
}

struct LimitedWriter {
    text: Vec<u8>,
    limit: usize,
    is_full: bool,
}

impl Write for &mut LimitedWriter {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        if bytes.len() > self.limit - self.text.len() {
            self.is_full = true;
            return Err(std::io::Error::other("output limit"));
        }
        self.text.extend_from_slice(bytes);
        Ok(bytes.len())
    }
    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// The template's own objection to a conversation.
#[derive(Debug)]
struct Raised(String);

impl std::fmt::Display for Raised {
    fn fmt(&self, out: &mut std::fmt::Formatter) -> std::fmt::Result {
        out.write_str(&self.0)
    }
}

impl std::error::Error for Raised {}

fn find<T: std::error::Error + 'static>(error: &Error) -> Option<&T> {
    let mut next = Some(error as &(dyn std::error::Error + 'static));
    while let Some(error) = next {
        if let Some(found) = error.downcast_ref::<T>() {
            return Some(found);
        }
        next = error.source();
    }
    None
}

/// The innermost error of the interpreter: outer ones only say "in a block", "in a macro".
fn innermost(error: &Error) -> &Error {
    let mut found = error;
    let mut next = std::error::Error::source(error);
    while let Some(error) = next {
        found = error.downcast_ref::<Error>().unwrap_or(found);
        next = error.source();
    }
    found
}

fn failure_of(error: &Error, limits: &Limits) -> Failure {
    if let Some(Raised(text)) = find::<Raised>(error) {
        return Failure::invalid(format!("chat template: {text}"));
    }
    let error = innermost(error);
    let detail = error.detail().unwrap_or_default();
    let line = error.line().map(|line| format!("line {line}: ")).unwrap_or_default();
    match error.kind() {
        ErrorKind::OutOfFuel => Failure::new(
            Code::Exhausted,
            format!("chat template: {line}more than {} interpreter steps", limits.fuel),
        ),
        _ if detail.contains("recursion limit") => Failure::new(
            Code::Exhausted,
            format!("chat template: {line}calls nested deeper than {}", limits.depth),
        ),
        ErrorKind::UnknownFilter
        | ErrorKind::UnknownTest
        | ErrorKind::UnknownFunction
        | ErrorKind::UnknownMethod => {
            Failure::new(Code::Unimplemented, format!("chat template: {line}{}: {detail}", error.kind()))
        }
        ErrorKind::SyntaxError if detail.starts_with("unknown statement") => {
            Failure::new(Code::Unimplemented, format!("chat template: {line}{detail}"))
        }
        _ => Failure::invalid(format!("chat template: {line}{}: {detail}", error.kind())),
    }
}

/// transformers marks what the assistant wrote with {% generation %}; it prints nothing, so it becomes an `if`.
fn without_generation_tags(source: &str) -> Outcome<String> {
    let tag = Regex::new(r"\{%([-+]?)\s*(end)?generation\s*([-+]?)%\}")
        .map_err(|error| Failure::new(Code::Internal, error.to_string()))?;
    let mut out = String::with_capacity(source.len());
    let mut start = 0;
    for found in tag.captures_iter(source) {
        let Some(whole) = found.get_match() else { continue };
        let part = |group| found.get_group(group).map_or("", |span| &source[span.range()]);
        let statement = if part(2).is_empty() { "if true" } else { "endif" };
        out.push_str(&source[start..whole.start()]);
        out.push_str(&format!("{{%{} {statement} {}%}}", part(1), part(3)));
        start = whole.end();
    }
    out.push_str(&source[start..]);
    Ok(out)
}
