//! How messages are turned into bytes and back.

use std::marker::PhantomData;

use tonic::codec::{BufferSettings, Codec};
use tonic_prost::{ProstDecoder, ProstEncoder};

/// What a stream begins with in each direction, in bytes: 100 ms of audio with its envelope. It grows for larger messages.
const BUFFER: usize = 2 * 1024;
/// What is encoded before it is sent, where much waits; tonic's own.
const SEND_AT: usize = 32 * 1024;

/// Protobuf as ever, with smaller buffers than tonic's (8 KiB each): a process holds thousands of streams of audio.
#[derive(Debug)]
pub(crate) struct SmallBuffers<T, U>(PhantomData<(T, U)>);

impl<T, U> Default for SmallBuffers<T, U> {
    fn default() -> Self {
        Self(PhantomData)
    }
}

impl<T, U> Codec for SmallBuffers<T, U>
where
    T: prost::Message + Send + 'static,
    U: prost::Message + Default + Send + 'static,
{
    type Encode = T;
    type Decode = U;
    type Encoder = ProstEncoder<T>;
    type Decoder = ProstDecoder<U>;

    fn encoder(&mut self) -> Self::Encoder {
        ProstEncoder::new(BufferSettings::new(BUFFER, SEND_AT))
    }

    fn decoder(&mut self) -> Self::Decoder {
        ProstDecoder::new(BufferSettings::new(BUFFER, SEND_AT))
    }
}
