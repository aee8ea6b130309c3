import type { ZIMLogConfig } from './types.js';

const levels: ZIMLogConfig['logLevel'][] = ['debug', 'info', 'warn', 'error', 'report', 'disable'];

/**
 * Log writes to the console what is at least as important as its level. What it
 * writes are sentences of this SDK: no token, no message, nothing that a user said.
 */
export class Log {
  private level = levels.indexOf('error');

  setLevel(level: ZIMLogConfig['logLevel']): void {
    const i = levels.indexOf(level);
    this.level = i < 0 ? this.level : i;
  }

  debug(text: string): void {
    this.write('debug', text);
  }

  error(text: string): void {
    this.write('error', text);
  }

  private write(level: 'debug' | 'error', text: string): void {
    if (levels.indexOf(level) >= this.level) {
      console[level](`roomgate: ${text}`);
    }
  }
}
