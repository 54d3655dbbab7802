--[[ balance: prepaid units. Twin of server/domain/limits/balance.py. A cell is seven running totals of 7 bytes:
granted, reversed, charged, held, expired, uncollected, debt. Behind them stand its grants, where the policy keeps them
apart and there is more than one (balance_grants.lua).
granted - reversed + debt = available + held + charged + expired. Subtracted in an order that keeps every
intermediate result exact. ]]
local BALANCE, BALANCE_SIZE = '>I7I7I7I7I7I7I7', 49
