// Server-Sent Events out of a stream that fetch gave: EventSource cannot send the key.

export interface ServerEvent {
  type: string;
  data: string;
}

/** A line longer than this is none of ours: the longest event has some ten thousand bytes. */
const longest = 1 << 20;

/** The events of a stream, until it ends. */
export async function* serverEvents(stream: ReadableStream<Uint8Array>): AsyncGenerator<ServerEvent> {
  const reader = stream.pipeThrough(new TextDecoderStream() as ReadableWritablePair<string, Uint8Array>).getReader();
  let rest = '';
  let type = '';
  let data: string[] = [];
  try {
    for (;;) {
      const { done, value } = await reader.read();
      if (done) return; // what is unfinished does not count
      rest += value;
      if (rest.length > longest) throw new Error('the stream of events has a line that is too long');
      const lines = rest.split('\n');
      rest = lines.pop() ?? '';
      for (const line of lines.map((l) => l.replace(/\r$/, ''))) {
        if (line === '') {
          if (data.length > 0) yield { type: type || 'message', data: data.join('\n') };
          type = '';
          data = [];
        } else if (line.startsWith('event:')) {
          type = line.slice(6).trimStart();
        } else if (line.startsWith('data:')) {
          data.push(line.slice(5).replace(/^ /, ''));
        }
      }
    }
  } finally {
    reader.cancel().catch(() => undefined); // it is broken already
  }
}
