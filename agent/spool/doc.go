// Package spool is the contract between millrace-milter and millrace-agent and
// the only copy of the diverted mail.
//
// # What it promises
//
// A message whose [Writer.Append] returned nil survives kill -9 and power loss:
// content and envelope were synced, and so was the directory entry of their
// file. A message whose Append returned an error is never seen by the agent. The
// agent sees a message only after [Receipt.Release], or as an orphan when its
// writer died before it said; never after [Receipt.Void]. What [Store.Record]
// returned nil for survives kill -9 at once and power loss 100 ms later, and a
// final recipient stays final. A crash may repeat, never lose.
//
// # How its calls follow each other
//
// A process that appends, the milter or the agent for its own DSNs:
//
//	w, err := spool.OpenWriter(dir, options)
//	r, err := w.Append(ctx, envelope, content) // durable, not yet the agent's
//	... the verdict is written to the host MTA ...
//	err = r.Release()                          // or r.Void(), if it could not be
//	err = w.Close()
//
// Before a message is read, [Writer.Room], [Writer.AgentSilence] and
// [Writer.Draining] say whether to leave it with the host. The one agent:
//
//	s, err := spool.OpenStore(dir, options)    // ErrLocked if there is another
//	err = s.Load(queue)                        // all that is not done
//	go s.Follow(ctx, queue)                    // then each message as it comes
//	e, c, err := s.Message(id)                 // for every try
//	err = s.Record(events...)                  // before the session's next message
//	err = s.Beat(queued)                       // every few seconds
//	err = s.Close()                            // after Follow returned
//
// [Store.Damaged] says what is not as it was written, [Store.Unreadable] what the
// disk refuses to read for the moment. Who only looks, as an admin does, uses a
// [Reader] or [Verify], which disturb nobody.
//
// # Files
//
// A spool is a directory of mode 0700. No name in it comes from mail.
//
//	format                    "millrace spool 1\n"
//	key                       the 32 octets of LoopKey
//	members                   in a fleet, such keys of its other hosts (package fleet/marks)
//	next                      the last segment number, and the lock of the directory
//	agent.lock                locked by the agent; its last sign of life
//	drain                     only while an admin drains the spool; since when
//	segments/0000001A         a segment: messages
//	blobs/0000001A-003F0040   the content of a message of 1 MiB or more, by its id
//	journal/00000007.journal     events of recipients
//	journal/00000007.checkpoint  their sum before that journal
//	moves/                       open transfers to and from other nodes: package move
//
// Names ending in .tmp are files in the making; an unlocked one is garbage. All
// locks are flock(2), exclusive. Who creates a segment or a blob holds the lock
// of next until the new file has its own. All integers are little-endian and
// unsigned, times are signed nanoseconds since 1970 with the least value for
// none. CRC is CRC32C (Castagnoli). A salted CRC is the CRC of the salt (8
// octets), the offset of what it covers (8 octets), and what it covers, which is
// all before it in its structure unless said otherwise: mail can therefore never
// pass for structure. Where no salt is named it is 0, and so is the offset. A
// varint is an unsigned base 128 varint as in encoding/binary.
//
// next has two slots, at 0 and 512, for even and odd numbers: number (4), CRC
// salted with 0 and the slot's index, 0 or 1, as its offset (4). The greater
// valid one counts, 0 in a new spool; numbers may be left out. agent.lock: time
// (8), queued recipients (8), salted CRC (4). The agent writes that anew every few
// seconds; a writer takes each change of it for a sign of life and goes by its own
// clock, so to it the time itself only tells one from the next. To the next agent it
// tells when the last one ended.
//
// # Segment
//
// A segment is written by one process, which keeps it locked until it gets no
// more records and each of them has a verdict. It is allocated in full at the
// start, with its size: a full disk shows then, and a sync has no size to write.
// Without its lock it belongs to the agent.
//
//	    0  header: "MRSEG\r\n\x1a" (8), version 1 (4), number (4),
//	       salt (8), time (8), salted CRC (4)
//	  512  watermark: offset below which all is synced (8), CRC with the salt (4)
//	 1024  seal: end of the last record (8), index of the last record plus 1 (4),
//	       offset of the footer, or 0 (8), its octets (4), its CRC with the salt
//	       and that offset (4), zero (4), CRC with the salt (4)
//	 2048  a copy of the header
//	 4096  verdicts: one octet for each of up to 65,536 records
//	69632  records, each at a multiple of 8, below 2^30
//	       footer, if there is one, from the end of the last record to the end
//
// The watermark is written after fdatasync and before the writers are answered,
// and is itself not synced. While the segment is locked, only what is below it
// counts. If the seal is valid, the records end where it says. A segment with
// neither lock nor seal, whose writer died, may hold acknowledged records beyond
// the watermark, if power failed; there a record counts if all its CRCs match,
// and one that does not match is looked past. The agent then seals the segment.
//
//	 0  "MRrc" (4), segment (4), own offset (4), index of the verdict (4)
//	16  flags (4): 1 content is in blobs, 2 octets above 127
//	20  octets of envelope (4), recipients (4)
//	28  octets of content (8), of its header with the empty line (8)
//	44  CRC of the envelope (4), CRC of the content (4), zero (8), CRC with the salt (4)
//	64  envelope, content unless it is in blobs, zeros up to a multiple of 8
//
// An envelope is, in this order: origin (1); sender; list of arguments of MAIL;
// stream, with a tab and its former name if it has one, and another tab and the pool if a
// rule names one, and another tab and where it was moved from if another node had it; arrival (8); queue id,
// client name, client address, HELO, protocol, SASL user, daemon name, host;
// number of recipients, and for each its address and the list of its arguments. A
// string is its length and its octets, a list its length and its strings; these
// lengths, and the number of recipients, are varints.
//
// A footer repeats what a start needs, so that it reads a few large pieces and
// no records. It may be missing: a disk was full, a writer died, or its checksum
// does not match; the records say the same. It is "MRft" (4), number of entries
// (4), and an entry for each record, in order: the octets of the rest of the entry,
// then the index of the record less that of the one before, less 1; its
// offset less that of the one before, by 8; flags; recipients; octets of content,
// of its header: all seven are varints, and before the first record is one of
// index -1 at 69632. Then 16 bits (2) that say which fields of the envelope are
// the same as in the last entry that had one, and the fields that are not, as
// they are in an envelope. Bit 0 is the origin, and so on: the arguments, the
// recipients with their number, are one field each, which makes 14. Bit 15 alone
// says that the envelope stands only in the record.
//
// A verdict is 0x55 for released, 0xAA for void, 0x3C for an orphan that the
// agent took; all else means there is none yet. It is written in place, without
// a sync. Lost, a release makes an orphan, which is sent all the same and
// logged as a possible duplicate, and a void makes a possible duplicate; both
// are what a crash may do. The verdicts stand together, away from the
// records, for two reasons. To overwrite an octet in place is to trust that the
// disk does not harm its neighbours in the sector if power fails (what SQLite
// calls powersafe overwrite); here the neighbours are verdicts, not mail. And a
// sync of new records does not write the old ones again because a verdict was
// put into them, and the agent reads thousands of verdicts at once.
//
// A batch that failed is cut off by truncation, its verdicts are set to void and
// the segment is sealed before it, and all that before its writers are answered;
// each of the three is enough. Nothing is appended after that: after a failed
// fsync the kernel may call pages clean that never reached the disk.
//
// # Journal
//
// A journal file is filled with synced zeros ahead of its end, so that a full
// disk cannot stop a running agent.
//
//	 0  "MRJNL\r\n\x1a", in a checkpoint "MRCKP\r\n\x1a" (8), version 1 (4),
//	    number (4), salt (8), zero (4), salted CRC (4)
//	64  frames, each at a multiple of 8
//
//	 0  "MRfr" (4), octets of events (4)
//	 8  offset below which this file was synced when the frame was written (8)
//	16  CRC with the salt and the frame's offset, of the 16 octets before it and
//	    of the events (4), zero (4)
//	24  events: id (8), recipient (4), due (8), tries (2), status (1), class (1),
//	    flags (1): 1 hand-back, 2 span, 4 stuck, 8 held, 16 from; octets of reply (2),
//	    reply; with from its end, behind the last tab, is where the mail leaves from
//
// An event says all about its recipient; the last one counts. Status is as the
// constants are in order, from 0; one that a reader does not know is final. An event of a span says that all records are
// done that start from the offset of its id on and before the offset that it has in
// place of a recipient, and that their octets may be zero by now; what else the
// journal says of these does not count. A checkpoint holds events for all
// recipients that are not fresh, of all messages not yet reclaimed, with spans
// for those that are done, and an empty frame at its end. The state of a spool is
// the checkpoint with the highest number and then the journals from that number
// on, without a gap. A checkpoint may hold events of the journal with its number,
// too; it gets its name only when they are synced there. The frames of a journal
// end at the first one that does not match. That is no error after a crash, unless
// a frame further on says that it was written when this place had been synced:
// then something was lost, and OpenStore refuses.
//
// A journal that another follows is cut off where its frames end. A sync of it
// that failed makes it worthless from there on: nothing is recorded until there
// is another journal, and a checkpoint for it.
//
// # Reclaim
//
// A segment without a lock, all of whose records are done or void, is unlinked,
// and so is the blob of a message that is done; before that the journal is
// synced, and only when the directory is synced too do checkpoints leave its
// messages out. Segment numbers are never used again.
//
// Before that, blocks of a sealed segment that hold nothing but what is done are
// given back by punching holes, once 1 MiB of it got done, or a quarter, and some
// seconds have not brought the whole segment to an end. First
// an event in the journal names the span, then the journal is synced, then the
// hole is made, so what reads as zero is known to be done. A hole may come back
// as it was if power fails; nobody minds. On a file system without holes only
// whole segments come back. Nothing of a segment that holds damage is reclaimed
// at all.
//
// # Trouble
//
// A full disk shows when a segment or more room for the journal is allocated, and
// in nothing that was acknowledged. Outcomes leave some of the journal's room to
// the spans without which no hole can be made, so a drain makes its own room. An
// agent that starts on a full disk gives the zeros of the last journal back, and
// takes as many for the new one as it gets.
package spool
