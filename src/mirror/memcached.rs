//! Memcached, by its text protocol: `gets`, `add`, `cas` and `delete`.
//!
//! A client of our own, of the four commands that are needed. The maintained ones are larger than this file, and the smallest of them reads lines without
//! a limit and makes room for as many bytes as the server says will come: what a peer answers must not decide how much memory is taken.

use std::io::ErrorKind;
use std::time::Duration;

use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;

use super::error::MirrorError;
use super::place::{Found, LONGEST_VALUE, Stays, Write};

/// The longest line of an answer: `VALUE`, a key of 250 bytes, and three numbers.
const LONGEST_LINE: u64 = 512;

/// One server.
pub(super) struct Memcached {
    host: String,
    port: u16,
    connection: Option<BufReader<TcpStream>>,
}

/// An item as it was read, with the number that changes with every write.
struct Item {
    key: String,
    body: Vec<u8>,
    unique: u64,
}

impl Memcached {
    pub(super) fn new(host: String, port: u16) -> Self {
        Self { host, port, connection: None }
    }

    pub(super) fn disconnect(&mut self) {
        self.connection = None;
    }

    pub(super) async fn read(&mut self, keys: &[&str]) -> Result<Vec<Option<Found>>, MirrorError> {
        let mut items = self.items(keys).await?;
        let mut take = |key: &&str| {
            let at = items.iter().position(|item| item.key == **key)?;
            Some(Found { body: items.swap_remove(at).body, stays: Stays::Unknown })
        };
        Ok(keys.iter().map(&mut take).collect())
    }

    pub(super) async fn write(&mut self, write: &Write<'_>) -> Result<bool, MirrorError> {
        let (key, length, seconds) = (write.key, write.body.len(), whole_seconds(write.life));
        let command = match write.over {
            None => format!("add {key} 0 {seconds} {length}"),
            Some(over) => match self.unique_of(key, over).await? {
                None => return Ok(false),
                Some(unique) => format!("cas {key} 0 {seconds} {length} {unique}"),
            },
        };
        let connection = self.connect().await?;
        let message = [command.as_bytes(), b"\r\n", write.body.as_bytes(), b"\r\n"].concat();
        connection.write_all(&message).await?;
        match line(connection).await?.as_str() {
            "STORED" => Ok(true),
            "NOT_STORED" | "EXISTS" | "NOT_FOUND" => Ok(false),
            other => Err(refusal(other)),
        }
    }

    pub(super) async fn delete(&mut self, key: &str, over: &[u8]) -> Result<bool, MirrorError> {
        if self.unique_of(key, over).await?.is_none() {
            return Ok(false);
        }
        let connection = self.connect().await?;
        connection.write_all(format!("delete {key}\r\n").as_bytes()).await?;
        match line(connection).await?.as_str() {
            "DELETED" => Ok(true),
            "NOT_FOUND" => Ok(false),
            other => Err(refusal(other)),
        }
    }

    /// The number of the item under this key, if this still stands there.
    async fn unique_of(&mut self, key: &str, over: &[u8]) -> Result<Option<u64>, MirrorError> {
        let items = self.items(&[key]).await?;
        Ok(items.into_iter().find(|item| item.body == over).map(|item| item.unique))
    }

    async fn items(&mut self, keys: &[&str]) -> Result<Vec<Item>, MirrorError> {
        let connection = self.connect().await?;
        connection.write_all(format!("gets {}\r\n", keys.join(" ")).as_bytes()).await?;
        let mut items = Vec::new();
        loop {
            let head = line(connection).await?;
            if head == "END" {
                return Ok(items);
            }
            // No key comes that was not asked for.
            if items.len() == keys.len() {
                return Err(MirrorError::Unintelligible);
            }
            let (key, length, unique) = value(&head).ok_or_else(|| refusal(&head))?;
            let body = body(connection, length).await?;
            items.push(Item { key, body, unique });
        }
    }

    async fn connect(&mut self) -> Result<&mut BufReader<TcpStream>, MirrorError> {
        if self.connection.is_none() {
            let stream = TcpStream::connect((self.host.as_str(), self.port)).await;
            let stream = stream.map_err(|error| MirrorError::Unreachable(error.kind()))?;
            stream.set_nodelay(true)?;
            self.connection = Some(BufReader::new(stream));
        }
        self.connection.as_mut().ok_or(MirrorError::Unintelligible)
    }
}

/// Zero would be for ever.
fn whole_seconds(life: Duration) -> u64 {
    life.as_secs().max(1)
}

async fn line(connection: &mut BufReader<TcpStream>) -> Result<String, MirrorError> {
    let mut line = Vec::new();
    connection.take(LONGEST_LINE).read_until(b'\n', &mut line).await?;
    if line.is_empty() {
        return Err(MirrorError::Broken(ErrorKind::UnexpectedEof));
    }
    let text = line.strip_suffix(b"\r\n").ok_or(MirrorError::Unintelligible)?;
    String::from_utf8(text.to_vec()).map_err(|_| MirrorError::Unintelligible)
}

/// A value and the end of its line. Of a longer one than any of ours only the beginning is kept.
async fn body(connection: &mut BufReader<TcpStream>, length: u64) -> Result<Vec<u8>, MirrorError> {
    let mut body = Vec::new();
    connection.take(length.min(LONGEST_VALUE as u64)).read_to_end(&mut body).await?;
    let rest = length.saturating_sub(body.len() as u64).saturating_add(2);
    let mut end = connection.take(rest);
    let skipped = tokio::io::copy(&mut end, &mut tokio::io::sink()).await?;
    if skipped == rest { Ok(body) } else { Err(MirrorError::Broken(ErrorKind::UnexpectedEof)) }
}

/// Key, length and number of `VALUE <key> <flags> <bytes> <cas unique>`.
fn value(head: &str) -> Option<(String, u64, u64)> {
    let mut words = head.split(' ');
    let (word, key, _, length) = (words.next()?, words.next()?, words.next()?, words.next()?);
    let unique = words.next()?.parse().ok()?;
    (word == "VALUE" && words.next().is_none()).then_some((key.to_owned(), length.parse().ok()?, unique))
}

fn refusal(line: &str) -> MirrorError {
    match line.split(' ').next() {
        Some("SERVER_ERROR") if line.contains("out of memory") => MirrorError::ReadOnly,
        Some("SERVER_ERROR") => MirrorError::Refused("SERVER_ERROR"),
        Some("CLIENT_ERROR") if line.contains("unauthenticated") => MirrorError::Credentials,
        Some("CLIENT_ERROR") => MirrorError::Refused("CLIENT_ERROR"),
        Some("ERROR") => MirrorError::Refused("ERROR"),
        _ => MirrorError::Unintelligible,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_head_is_read_strictly() {
        assert_eq!(value("VALUE a:b 0 12 7"), Some(("a:b".to_owned(), 12, 7)));
        for bad in ["VALUE a 0 12", "VALUE a 0 -1 7", "VALUE a 0 12 7 9", "END", "", "VALUES a 0 12 7", "VALUE a 0 x 7"]
        {
            assert_eq!(value(bad), None, "{bad}");
        }
    }

    #[test]
    fn a_life_never_becomes_eternity() {
        assert_eq!([0, 999, 2_500].map(|millis| whole_seconds(Duration::from_millis(millis))), [1, 1, 2]);
    }
}
