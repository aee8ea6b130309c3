// A question before something that cannot be taken back.

import { h } from './dom';

/**
 * Asks the person, and gives the text they typed ("" if the question wants none), or undefined
 * if they thought better of it.
 */
export function ask(title: string, text: string, action: string, label?: string): Promise<string | undefined> {
  return new Promise((resolve) => {
    const input = h('input', { id: 'dialog-input', maxlength: 256, autocomplete: 'off' });
    const dialog = h('dialog', { 'aria-labelledby': 'dialog-title', 'aria-describedby': 'dialog-text' },
      h('form', { method: 'dialog' },
        h('h2', { id: 'dialog-title' }, title),
        h('p', { id: 'dialog-text' }, text),
        ...(label === undefined ? [] : [h('label', { for: 'dialog-input' }, label), input]),
        h('div', { class: 'buttons' },
          h('button', { type: 'button', onclick: () => dialog.close() }, 'Cancel'),
          h('button', { value: 'yes', class: 'danger' }, action))));
    dialog.addEventListener('close', () => {
      dialog.remove();
      resolve(dialog.returnValue === 'yes' ? input.value : undefined);
    });
    document.body.append(dialog);
    dialog.showModal();
  });
}
