package roomstore

import "time"

// LookAgainAfter has audits of a store look again sooner, where nothing is under way.
func (s *Store) LookAgainAfter(d time.Duration) { s.secondLook = d }

// TallyBy has counts of a store list so many rooms at a time.
func (s *Store) TallyBy(rooms int) { s.tallyBatch = rooms }

// FullFor has a store remember for so long that there is no place for another room.
func (s *Store) FullFor(d time.Duration) { s.places.fullFor = d }
