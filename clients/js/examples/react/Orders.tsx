// The newest orders, with the state of the connection.

import { useTallycast } from "./useTallycast.ts";

export function Orders({ server = "" }: { server?: string }) {
  const { status, messages, gap } = useTallycast("/orders/*", `${server}/subscribe`);
  return (
    <section>
      <p role="status">
        {status.state} {status.reason}
      </p>
      {gap && <p>Orders are missing ({gap.reason}).</p>}
      <ul>
        {messages.map(({ id, namespace, data }) => (
          <li key={id}>
            {namespace}: {JSON.stringify(data)}
          </li>
        ))}
      </ul>
    </section>
  );
}
