//! `account`: the accounts of a running server.

use std::fs::File;
use std::io::{self, IsTerminal, Read};
use std::path::{Path, PathBuf};

use clap::{Args, Subcommand, ValueEnum};
use serde_json::{Value, json};
use zeroize::Zeroizing;

use super::{Context, Failure, block_on, say};

/// The longest secret or adopted token that is read, in bytes.
const LONGEST_INPUT: u64 = 64 * 1024;

/// What to do with accounts.
#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Register an account
    #[command(
        after_help = "The AppSecret is asked for on a terminal, or read from standard input or --secret-file; it is never an argument.\n\
        WXTOKEN_URL says where the server is (http://127.0.0.1:8080), WXTOKEN_KEY or WXTOKEN_KEY_FILE which admin key to show.\n\n\
        Exit codes: 0 registered; 1 refused, the message says why; 2 wrong words; 69 the server is away or asks to come again;\n\
        77 the key does not allow it; 78 wrong settings."
    )]
    Add(Box<AddFlags>),
}

/// What `account add` takes.
#[derive(Debug, Args)]
pub(super) struct AddFlags {
    /// WeChat's identifier, wx…
    appid: String,
    /// The file that holds the AppSecret
    #[arg(long, value_name = "FILE")]
    secret_file: Option<PathBuf>,
    /// What to call it
    #[arg(long)]
    name: Option<String>,
    /// How its access tokens are fetched: stable or plain [default: stable]
    #[arg(long)]
    mode: Option<String>,
    /// The token types to keep, with commas between them [default: only the access token]
    #[arg(long, value_name = "TYPES", value_delimiter = ',')]
    token_types: Option<Vec<String>>,
    /// Free text
    #[arg(long)]
    note: Option<String>,
    /// Do not fetch or serve its tokens yet
    #[arg(long)]
    disabled: bool,
    /// Go on with the access token that is in use now, so that nothing is minted before that is due: a file, or - for standard input,
    /// with its value and the seconds that are left of its life as JSON, `{"value": "…", "expires_in": 3600}`
    #[arg(long, value_name = "FILE")]
    adopt: Option<PathBuf>,
    /// How to print the account
    #[arg(long, value_enum, default_value_t = Output::Table)]
    output: Output,
}

/// How data is printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Output {
    /// For people
    Table,
    /// As the server sent it
    Json,
}

/// What is wrong with what a command was given.
#[derive(Debug, thiserror::Error)]
pub(super) enum InputError {
    /// A file, or standard input, could not be read.
    #[error("cannot read {place}")]
    Unreadable {
        /// Which.
        place: String,
        /// Why.
        source: io::Error,
    },
    /// Two things are to come from standard input.
    #[error("standard input cannot hold both the AppSecret and the token to adopt; name --secret-file")]
    TwoFromInput,
    /// What `--adopt` names is not what it must be. What it holds is a secret and is not repeated.
    #[error(
        "--adopt: write a JSON object like {{\"value\": \"…\", \"expires_in\": 3600}}, in seconds that are left now"
    )]
    Adopt,
}

pub(super) fn run(context: Context, command: Command) -> Result<(), Failure> {
    match command {
        Command::Add(flags) => add(context, &flags),
    }
}

fn add(context: Context, flags: &AddFlags) -> Result<(), Failure> {
    let server = context.server()?;
    let order = order(flags)?;
    let account = block_on(server.post("/v1/accounts", &order))?;
    say::data(&shown(&account, flags.output)).map_err(Failure::Output)?;
    if flags.adopt.is_some() {
        let next = account["tokens"][0]["refresh_at"].as_str().map_or_else(String::new, |at| format!(" until {at}"));
        say::talk(&format!("The token in use was taken over: WeChat accepts it, and nothing is minted{next}."));
    } else {
        say::talk("Registered. Whether WeChat takes the AppSecret shows in a moment in the account's health.");
    }
    Ok(())
}

/// The body of the registration.
fn order(flags: &AddFlags) -> Result<Value, InputError> {
    let adopt_from_input = flags.adopt.as_deref() == Some(Path::new("-"));
    if adopt_from_input && flags.secret_file.is_none() {
        return Err(InputError::TwoFromInput);
    }
    let adopt = flags.adopt.as_deref().map(|file| adopted(file, adopt_from_input)).transpose()?;
    let secret = secret(flags)?;
    let mut order = json!({ "appid": flags.appid, "secret": secret.trim(), "enabled": !flags.disabled });
    for (field, value) in [
        ("name", flags.name.as_ref().map(|name| json!(name))),
        ("mode", flags.mode.as_ref().map(|mode| json!(mode))),
        ("token_types", flags.token_types.as_ref().map(|types| json!(types))),
        ("note", flags.note.as_ref().map(|note| json!(note))),
        ("adopt", adopt),
    ] {
        if let Some(value) = value {
            order[field] = value;
        }
    }
    Ok(order)
}

fn secret(flags: &AddFlags) -> Result<Zeroizing<String>, InputError> {
    match &flags.secret_file {
        Some(file) => read_file(file),
        None if io::stdin().is_terminal() => {
            let prompt = format!("AppSecret of {}: ", flags.appid);
            let typed = rpassword::prompt_password(prompt);
            typed.map(Zeroizing::new).map_err(|source| InputError::Unreadable { place: "the terminal".into(), source })
        }
        None => read_input(),
    }
}

fn adopted(file: &Path, from_input: bool) -> Result<Value, InputError> {
    let text = if from_input { read_input()? } else { read_file(file)? };
    let given: Value = serde_json::from_str(&text).map_err(|_| InputError::Adopt)?;
    let value = given["value"].as_str().or_else(|| given["access_token"].as_str());
    match (value, given["expires_in"].as_u64()) {
        (Some(value), Some(expires_in)) => Ok(json!({ "value": value, "expires_in": expires_in })),
        _ => Err(InputError::Adopt),
    }
}

fn read_file(file: &Path) -> Result<Zeroizing<String>, InputError> {
    let unreadable = |source| InputError::Unreadable { place: file.display().to_string(), source };
    read_text(File::open(file).map_err(unreadable)?).map_err(unreadable)
}

fn read_input() -> Result<Zeroizing<String>, InputError> {
    read_text(io::stdin().lock())
        .map_err(|source| InputError::Unreadable { place: "standard input".to_owned(), source })
}

fn read_text(from: impl Read) -> io::Result<Zeroizing<String>> {
    let mut text = Zeroizing::new(String::new());
    from.take(LONGEST_INPUT).read_to_string(&mut text)?;
    Ok(text)
}

fn shown(account: &Value, output: Output) -> String {
    if output == Output::Json {
        return account.to_string();
    }
    let words = |value: &Value| match value {
        Value::String(text) => text.clone(),
        Value::Array(items) => items.iter().filter_map(Value::as_str).collect::<Vec<_>>().join(","),
        Value::Null => String::new(),
        other => other.to_string(),
    };
    let fields = ["appid", "name", "mode", "token_types", "enabled", "health", "note"];
    let lines = fields.map(|field| {
        let value = words(&account[field]).replace(char::is_control, " ");
        format!("{field:<12} {value}").trim_end().to_owned()
    });
    lines.join("\n")
}
