import { Failure, quoted, ZIMErrorCode } from './errors.js';
import type { WebSocketConstructor, ZIMAppConfig } from './types.js';
import { path } from './wire.js';

/** How many gateways may be named. */
const maxServers = 100;

/** gateways gives the URLs to connect to. It throws a Failure that names what cannot be used. */
export function gateways(cfg: ZIMAppConfig): string[] {
  const given = cfg.server ?? globalThis.location?.origin;
  const servers = Array.isArray(given) ? given : [given];
  if (given === undefined || servers.length === 0) {
    throw bad('no server: name the gateways in ZIM.create, as server: "wss://rooms.example.com"');
  }
  if (servers.length > maxServers) {
    throw bad(`${servers.length} servers are named, the limit is ${maxServers}`);
  }
  return servers.map((server) => {
    let url: URL;
    try {
      url = new URL(server);
    } catch {
      throw bad(`server ${quoted(server)} is no URL such as "wss://rooms.example.com"`);
    }
    const scheme = { 'ws:': 'ws:', 'wss:': 'wss:', 'http:': 'ws:', 'https:': 'wss:' }[url.protocol];
    if (!scheme) {
      throw bad(`server ${quoted(server)} does not begin with ws://, wss://, http:// or https://`);
    }
    const query = url.search;
    const where = url.pathname === '/' ? path : url.pathname;
    return `${scheme}//${url.host}${where}${query}`;
  });
}

/** socketOf gives the constructor of WebSockets. It throws a Failure if there is none. */
export function socketOf(cfg: ZIMAppConfig): WebSocketConstructor {
  const found = cfg.WebSocket ?? (globalThis as { WebSocket?: WebSocketConstructor }).WebSocket;
  if (typeof found !== 'function') {
    throw bad(
      'there is no WebSocket here: Node has one from version 22 on; with an older one, give a constructor in ZIM.create, as WebSocket, such as that of the package ws',
    );
  }
  return found;
}

/** time gives a number of milliseconds, or what it is by default. */
export function time(given: number | undefined, name: string, fallback: number): number {
  if (given === undefined) {
    return fallback;
  }
  if (typeof given !== 'number' || !(given >= 100 && given <= 3_600_000)) {
    throw bad(`${name} is ${quoted(given)}, it has to be 100 to 3600000 milliseconds`);
  }
  return given;
}

function bad(message: string): Failure {
  return new Failure(ZIMErrorCode.CommonModuleParamsInvalid, message);
}
