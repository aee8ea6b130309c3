// The network of one client, which can be cut: a WebSocket for the SDK that loses its link when
// the person says so.

import type { WebSocketConstructor, WebSocketLike } from '../../../client/js/src/index.js';

/** The close code of a link that broke. */
const broken = 1006;

/** One client's way to the gateways. */
export class Cable {
  #cut = false;
  #open = new Set<{ cut(): void }>();

  /** heard is told of each frame, sent or received. */
  constructor(readonly heard: (direction: 'out' | 'in', frame: string) => void) {}

  get isCut(): boolean {
    return this.#cut;
  }

  /** Breaks the link there is, without a goodbye, and lets none come about. */
  cut(): void {
    this.#cut = true;
    for (const socket of [...this.#open]) socket.cut();
  }

  /** Lets links come about again, and says so as a browser does that is online again. */
  mend(): void {
    this.#cut = false;
    dispatchEvent(new Event('online'));
  }

  /** The WebSocket of this network. */
  get WebSocket(): WebSocketConstructor {
    const cable = this;
    return class implements WebSocketLike {
      onopen: WebSocketLike['onopen'] = null;
      onmessage: WebSocketLike['onmessage'] = null;
      onerror: WebSocketLike['onerror'] = null;
      onclose: WebSocketLike['onclose'] = null;
      #real: WebSocket | undefined;
      #ended = false;

      constructor(url: string, protocols: string[]) {
        cable.#open.add(this);
        if (cable.#cut) {
          setTimeout(() => this.cut(), 50); // nobody is asked, and nobody answers
          return;
        }
        const real = new WebSocket(url, protocols);
        this.#real = real;
        real.onopen = (event) => this.onopen?.(event);
        real.onerror = (event) => this.onerror?.(event);
        real.onmessage = (event) => {
          if (typeof event.data === 'string') cable.heard('in', event.data);
          this.onmessage?.(event);
        };
        real.onclose = (event) => this.#end(event);
      }

      get readyState(): number {
        if (this.#ended) return WebSocket.CLOSED;
        return this.#real?.readyState ?? WebSocket.CONNECTING;
      }

      send(data: string): void {
        cable.heard('out', data);
        this.#real?.send(data);
      }

      close(): void {
        if (this.#real) this.#real.close();
        else this.cut();
      }

      cut(): void {
        if (this.#real) {
          this.#real.onopen = this.#real.onmessage = this.#real.onerror = this.#real.onclose = null;
          this.#real.close();
        }
        if (this.#ended) return;
        this.onerror?.(new Event('error'));
        this.#end(new CloseEvent('close', { code: broken, wasClean: false }));
      }

      #end(event: CloseEvent): void {
        if (this.#ended) return;
        this.#ended = true;
        cable.#open.delete(this);
        this.onclose?.(event);
      }
    };
  }
}
