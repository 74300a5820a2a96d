//! Redis, and what speaks its protocol.
//!
//! A key is written in a transaction that fails when somebody else wrote it since it was read. What is read is bounded: a key of ours may hold anything.

use std::time::Duration;

use redis::aio::MultiplexedConnection;
use redis::{
    AsyncConnectionConfig, Client, ConnectionAddr, ErrorKind, IntoConnectionInfo, Pipeline, RedisConnectionInfo,
    RedisError, ServerErrorKind, Value, cmd, pipe,
};
use secrecy::ExposeSecret;

use super::error::MirrorError;
use super::place::{Found, LONGEST_VALUE, Stays, Write};
use crate::domain::mirror::Address;

/// The library's own deadlines; ours is shorter and covers everything.
const PATIENCE: Duration = Duration::from_secs(3);

/// One server and one of its databases.
pub(super) struct Redis {
    address: Address,
    /// Nobody else uses it: what it watches is what this watches.
    connection: Option<MultiplexedConnection>,
}

impl Redis {
    pub(super) fn new(address: Address) -> Self {
        Self { address, connection: None }
    }

    pub(super) fn disconnect(&mut self) {
        self.connection = None;
    }

    pub(super) async fn read(&mut self, keys: &[&str]) -> Result<Vec<Option<Found>>, MirrorError> {
        let connection = self.connect().await?;
        let mut pipeline = pipe();
        for key in keys {
            ask_for(&mut pipeline, key);
            pipeline.cmd("PTTL").arg(key);
        }
        let answers: Vec<Value> = pipeline.query_async(connection).await.map_err(|error| told(&error))?;
        let answers = pairs(&answers)?;
        if answers.len() != keys.len() {
            return Err(MirrorError::Unintelligible);
        }
        let found = |(body, millis): (Vec<u8>, i64)| {
            let stays = u64::try_from(millis).map_or(Stays::Forever, |left| Stays::For(Duration::from_millis(left)));
            // A missing key reads as an empty one.
            (!body.is_empty()).then_some(Found { body, stays })
        };
        Ok(answers.into_iter().map(found).collect())
    }

    pub(super) async fn write(&mut self, write: &Write<'_>) -> Result<bool, MirrorError> {
        let millis = u64::try_from(write.life.as_millis()).unwrap_or(u64::MAX);
        let mut set = cmd("SET");
        set.arg(write.key).arg(write.body).arg("PX").arg(millis);
        self.replace(write.key, write.over.unwrap_or_default(), set).await
    }

    pub(super) async fn delete(&mut self, key: &str, over: &[u8]) -> Result<bool, MirrorError> {
        let mut delete = cmd("DEL");
        delete.arg(key);
        self.replace(key, over, delete).await
    }

    /// Runs a command on a key if this still stands under it.
    async fn replace(&mut self, key: &str, over: &[u8], command: redis::Cmd) -> Result<bool, MirrorError> {
        let connection = self.connect().await?;
        let mut watching = pipe();
        watching.cmd("WATCH").arg(key).ignore();
        ask_for(&mut watching, key);
        let (present,): (Vec<u8>,) = watching.query_async(connection).await.map_err(|error| told(&error))?;
        if present != over {
            cmd("UNWATCH").query_async::<()>(connection).await.map_err(|error| told(&error))?;
            return Ok(false);
        }
        let mut transaction = pipe();
        transaction.atomic().add_command(command);
        let done: Value = transaction.query_async(connection).await.map_err(|error| told(&error))?;
        Ok(done != Value::Nil)
    }

    async fn connect(&mut self) -> Result<&mut MultiplexedConnection, MirrorError> {
        if self.connection.is_none() {
            let limits = AsyncConnectionConfig::new()
                .set_connection_timeout(Some(PATIENCE))
                .set_response_timeout(Some(PATIENCE));
            let client = client(&self.address)?;
            let connecting = client.get_multiplexed_async_connection_with_config(&limits).await;
            self.connection = Some(connecting.map_err(|error| untold(&error))?);
        }
        self.connection.as_mut().ok_or(MirrorError::Unintelligible)
    }
}

fn client(address: &Address) -> Result<Client, MirrorError> {
    let Address::Redis { host, port, tls, user, password, database } = address else {
        return Err(MirrorError::Unintelligible);
    };
    let (host, port) = (host.clone(), *port);
    let place = match tls {
        true => ConnectionAddr::TcpTls { host, port, insecure: false, tls_params: None },
        false => ConnectionAddr::Tcp(host, port),
    };
    let mut login = RedisConnectionInfo::default().set_db(i64::from(*database));
    if let Some(user) = user {
        login = login.set_username(user);
    }
    if let Some(password) = password {
        login = login.set_password(password.expose_secret());
    }
    let info = place.into_connection_info().map_err(|error| told(&error))?.set_redis_settings(login);
    Client::open(info).map_err(|error| told(&error))
}

/// The beginning of a value.
fn ask_for(pipeline: &mut Pipeline, key: &str) {
    pipeline.cmd("GETRANGE").arg(key).arg(0).arg(LONGEST_VALUE);
}

/// Answers two by two.
fn pairs(answers: &[Value]) -> Result<Vec<(Vec<u8>, i64)>, MirrorError> {
    let pair = |pair: &[Value]| match pair {
        [Value::BulkString(body), Value::Int(millis)] => Ok((body.clone(), *millis)),
        _ => Err(MirrorError::Unintelligible),
    };
    answers.chunks(2).map(pair).collect()
}

/// What went wrong, without what the server said.
fn told(error: &RedisError) -> MirrorError {
    // The first of a pipeline's.
    let errors = error.clone().into_server_errors();
    match errors.as_ref().and_then(|errors| errors.first()).map(|(_, error)| error.code()) {
        Some("WRONGPASS" | "NOAUTH") => return MirrorError::Credentials,
        Some("WRONGTYPE") => return MirrorError::OtherType,
        Some("READONLY" | "OOM" | "MISCONF" | "LOADING" | "MASTERDOWN" | "NOREPLICAS") => return MirrorError::ReadOnly,
        _ => {}
    }
    match error.kind() {
        ErrorKind::Io if error.is_timeout() => MirrorError::Timeout,
        ErrorKind::Io => MirrorError::Broken(io_kind(error)),
        ErrorKind::AuthenticationFailed => MirrorError::Credentials,
        ErrorKind::Server(ServerErrorKind::NoPerm) => MirrorError::Permission,
        ErrorKind::Server(ServerErrorKind::Moved | ServerErrorKind::Ask | ServerErrorKind::CrossSlot) => {
            MirrorError::Refused("that a cluster has; name a server or a proxy")
        }
        ErrorKind::Server(_) | ErrorKind::Extension => MirrorError::Refused("that says nothing of its cause"),
        _ => MirrorError::Unintelligible,
    }
}

/// The same while connecting.
fn untold(error: &RedisError) -> MirrorError {
    match told(error) {
        MirrorError::Broken(std::io::ErrorKind::InvalidData) => MirrorError::Tls,
        MirrorError::Broken(kind) => MirrorError::Unreachable(kind),
        other => other,
    }
}

/// The system's word for it.
fn io_kind(error: &RedisError) -> std::io::ErrorKind {
    use std::io::ErrorKind::{
        BrokenPipe, ConnectionRefused, ConnectionReset, InvalidData, NotFound, Other, UnexpectedEof,
    };
    let kinds = [ConnectionRefused, ConnectionReset, BrokenPipe, UnexpectedEof, NotFound, InvalidData];
    let mut source: Option<&(dyn std::error::Error + 'static)> = Some(error);
    while let Some(error) = source {
        if let Some(error) = error.downcast_ref::<std::io::Error>() {
            return kinds.into_iter().find(|kind| *kind == error.kind()).unwrap_or(Other);
        }
        source = error.source();
    }
    // The library says of some connections only that they are gone.
    if error.is_connection_refusal() { ConnectionRefused } else { BrokenPipe }
}
