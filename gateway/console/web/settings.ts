// What the gateway that serves the page says of itself.

export interface Settings {
  /** What clients are shown as the gateway's name. */
  node: string;
  version: string;
  /** Whether there is a playground. */
  playground: boolean;
  /** An API key that is no secret; only of a gateway for development. */
  apiKey?: string;
}

export async function settings(): Promise<Settings> {
  const answer = await fetch('settings.json');
  if (!answer.ok) throw new Error(`the gateway answered ${answer.status}`);
  return await answer.json() as Settings;
}
