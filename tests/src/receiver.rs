//! A server that takes what is posted to it, in a namespace: it keeps every request with the time at
//! which it came, and answers as it is told to. When it is dropped nobody listens there any more.

use std::{
    io::{BufRead, BufReader, Read, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::{Duration, SystemTime},
};

use anyhow::{Context, Error, Result};
use serde_json::Value;

use crate::{namespace::Namespace, process::wait_for};

/// How often it looks whether it is to end.
const LOOK: Duration = Duration::from_millis(2);
/// Who says nothing for so long is given up.
const PATIENCE: Duration = Duration::from_secs(20);

/// What it does with a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Way {
    /// It answers with a status.
    Answer(u16),
    /// It answers with a status and a body.
    Say(u16, Vec<u8>),
    /// It takes it, and says nothing.
    Hang,
}

/// A request.
#[derive(Debug, Clone)]
pub struct Request {
    /// When it was there whole.
    pub at: SystemTime,
    /// Its method.
    pub method: String,
    /// Its path.
    pub path: String,
    /// Its headers; the names are in small letters.
    pub headers: Vec<(String, String)>,
    /// Its body.
    pub body: Vec<u8>,
}

impl Request {
    /// A header's value.
    pub fn header(&self, name: &str) -> Option<&str> {
        let mut headers = self.headers.iter();
        headers.find_map(|(it, value)| (it == name).then_some(value.as_str()))
    }

    /// The body as JSON; null when it is none.
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_default()
    }
}

/// The server.
#[derive(Debug)]
pub struct Receiver {
    way: Arc<Mutex<Way>>,
    requests: Arc<Mutex<Vec<Request>>>,
    ending: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Receiver {
    /// One that listens at an address of a namespace.
    pub fn start(namespace: &Namespace, address: SocketAddr, way: Way) -> Result<Self> {
        let listener = namespace
            .enter(|| Ok(TcpListener::bind(address)?))
            .with_context(|| format!("listening at {address}"))?;
        listener.set_nonblocking(true)?;
        let way = Arc::new(Mutex::new(way));
        let requests = Arc::<Mutex<Vec<Request>>>::default();
        let ending = Arc::new(AtomicBool::new(false));
        let (seen, end, now) = (Arc::clone(&requests), Arc::clone(&ending), Arc::clone(&way));
        let thread = thread::spawn(move || {
            while !end.load(Ordering::Relaxed) {
                match listener.accept() {
                    Ok((stream, _)) => {
                        let (seen, end, way) =
                            (Arc::clone(&seen), Arc::clone(&end), locked(&now).clone());
                        // It ends by its timeouts.
                        thread::spawn(move || serve(stream, way, &seen, &end));
                    }
                    Err(_) => thread::sleep(LOOK),
                }
            }
        });
        Ok(Self {
            way,
            requests,
            ending,
            thread: Some(thread),
        })
    }

    /// What came so far.
    pub fn requests(&self) -> Vec<Request> {
        locked(&self.requests).clone()
    }

    /// What it does from now on.
    pub fn be(&self, way: Way) {
        *locked(&self.way) = way;
    }

    /// The next request from now on.
    pub fn next(&self, what: &str, patience: Duration) -> Result<Request> {
        let known = locked(&self.requests).len();
        wait_for(what, patience, || {
            Ok(locked(&self.requests).get(known).cloned())
        })
    }
}

impl Drop for Receiver {
    fn drop(&mut self) {
        self.ending.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            // What it panicked with is printed.
            let _ = thread.join();
        }
    }
}

fn locked<T>(shared: &Mutex<T>) -> MutexGuard<'_, T> {
    shared.lock().unwrap_or_else(PoisonError::into_inner)
}

fn serve(stream: TcpStream, way: Way, seen: &Mutex<Vec<Request>>, ending: &AtomicBool) {
    // Who breaks off in the middle has sent nothing.
    let Ok(request) = read(&stream) else { return };
    locked(seen).push(request);
    match way {
        Way::Answer(status) => answer(stream, status, &[]),
        Way::Say(status, body) => answer(stream, status, &body),
        Way::Hang => {
            let end = SystemTime::now() + PATIENCE;
            while !ending.load(Ordering::Relaxed) && SystemTime::now() < end {
                thread::sleep(LOOK);
            }
        }
    }
}

fn answer(mut stream: TcpStream, status: u16, body: &[u8]) {
    let length = body.len();
    // Who does not listen any more misses it.
    let _ = write!(
        stream,
        "HTTP/1.1 {status} answer\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n"
    )
    .and_then(|()| stream.write_all(body));
}

fn read(stream: &TcpStream) -> Result<Request> {
    stream.set_nonblocking(false)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    let mut reader = BufReader::new(stream);
    let mut line = String::new();
    reader.read_line(&mut line)?;
    let mut words = line.split(' ');
    let mut word = |what| Ok::<_, Error>(words.next().context(what)?.to_owned());
    let (method, path) = (word("a method")?, word("a path")?);
    let mut headers = Vec::new();
    loop {
        let mut line = String::new();
        reader.read_line(&mut line)?;
        let Some((name, value)) = line.trim().split_once(':') else {
            break;
        };
        headers.push((name.to_ascii_lowercase(), value.trim().to_owned()));
    }
    let length = headers.iter().find(|(name, _)| name == "content-length");
    let length = length.map_or(Ok(0), |(_, length)| length.parse())?;
    let mut body = vec![0; length];
    reader.read_exact(&mut body)?;
    Ok(Request {
        at: SystemTime::now(),
        method,
        path,
        headers,
        body,
    })
}
