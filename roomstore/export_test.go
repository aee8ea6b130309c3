package roomstore

import "time"

// LookAgainAfter has audits of a store look again sooner, where nothing is under way.
func (s *Store) LookAgainAfter(d time.Duration) { s.secondLook = d }

// TallyBy has counts of a store list so many rooms at a time.
func (s *Store) TallyBy(rooms int) { s.tallyBatch = rooms }
