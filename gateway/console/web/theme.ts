// Light, dark, or as the system has it.

import { byID } from './dom';

const kept = 'roomgate-theme';

function apply(theme: string): void {
  if (theme) document.documentElement.dataset['theme'] = theme;
  else delete document.documentElement.dataset['theme'];
}

/** Lets the person choose, and remembers what they chose. */
export function startTheme(): void {
  const select = byID<HTMLSelectElement>('theme');
  select.value = localStorage.getItem(kept) ?? '';
  apply(select.value);
  select.addEventListener('change', () => {
    localStorage.setItem(kept, select.value);
    apply(select.value);
  });
}
